//! The life of the service: start, signals, drain.
//!
//! Owns the order of starting and stopping, and what systemd is told. Refuses arguments and pictures of mistakes; `cli` has
//! those.
//!
//! Order of the start: configuration, lock, catalog, sockets, then the past is closed, then the loop begins, and only then is
//! the service ready. Whatever fails before leaves no trace but an empty catalog.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::core::{Core, Parts, instant, this_process};
use super::engine::Engine;
use super::places::{PlaceError, Places};
use crate::api;
use crate::catalog::{Catalog, CatalogError, StateLock};
use crate::clock::Clock;
use crate::policy::Problems;

/// How long runs may take to end after they were asked to.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// What is done once the daemon is ready.
pub type OnReady = Box<dyn FnOnce(&Bound) + Send>;

/// With what the daemon is started.
pub struct DaemonOptions {
    pub config_dir: PathBuf,
    /// Told once, when the sockets listen and the loop runs.
    pub on_ready: Option<OnReady>,
}

/// Where the daemon listens.
#[derive(Clone, Debug)]
pub struct Bound {
    pub address: SocketAddr,
    pub socket: PathBuf,
    pub places: Places,
}

#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("the configuration has {} errors", .0.errors())]
    Config(Problems),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(
        "the daemon will not listen on {0}: an address that is not loopback needs TLS, which this build lacks [E301]"
    )]
    NotLoopback(SocketAddr),
    #[error("the daemon cannot listen on {at}")]
    Listen {
        at: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("the directory {path} cannot be created")]
    Directory {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("the runtime cannot be started")]
    Runtime(#[source] std::io::Error),
}

/// Runs the daemon until it is told to stop. Blocks.
pub fn run(options: DaemonOptions, engine: Arc<dyn Engine>, clock: Arc<dyn Clock>) -> Result<(), DaemonError> {
    let config = crate::policy::load(&options.config_dir).map_err(DaemonError::Config)?;
    for warning in &config.warnings.list {
        warn!(
            event = "config.warning",
            code = warning.code,
            file = warning.place.file,
            line = warning.place.line,
            "{}",
            warning.message
        );
    }
    let places = Places::find(&config.daemon, |name| std::env::var_os(name))?;
    let listen = config.daemon.listen;
    if !listen.ip().is_loopback() {
        return Err(DaemonError::NotLoopback(listen));
    }
    let lock = StateLock::acquire(&places.state)?;
    let (catalog, damage) = Catalog::open(&lock, instant(&*clock))?;
    if let Some(damage) = damage {
        error!(event = "catalog.damaged", moved_to = %damage.moved_to.display(), reason = damage.reason,
            "catalog was damaged and put aside; history, tokens and due times begin anew");
    }
    create_directory(&places.cache)?;
    let tcp = TcpListener::bind(listen).map_err(|cause| DaemonError::Listen { at: listen.to_string(), cause })?;
    let address = tcp.local_addr().map_err(|cause| DaemonError::Listen { at: listen.to_string(), cause })?;
    let unix = bind_unix(&places.socket)?;

    let core = Core::new(Parts {
        catalog,
        engine,
        clock,
        process: this_process(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        cache: places.cache.clone(),
        config_dir: options.config_dir,
        config,
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .thread_name("lifeboat-api")
        .enable_all()
        .build()
        .map_err(DaemonError::Runtime)?;
    let bound = Bound { address, socket: places.socket.clone(), places };
    let ended = runtime.block_on(live(Arc::clone(&core), tcp, unix, &bound, options.on_ready));
    // Answers that are still being computed are nobody's any more.
    runtime.shutdown_timeout(Duration::from_secs(1));
    // It may be another's by now if somebody replaced it; a dead file there harms nobody either way.
    let _ = std::fs::remove_file(&bound.socket);
    info!(event = "daemon.stopped", "daemon stopped");
    drop(lock);
    ended
}

async fn live(
    core: Arc<Core>,
    tcp: TcpListener,
    unix: UnixListener,
    bound: &Bound,
    on_ready: Option<OnReady>,
) -> Result<(), DaemonError> {
    // Before anything runs, so that no signal finds nobody home.
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Runtime)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(DaemonError::Runtime)?;
    let listen = |cause| DaemonError::Listen { at: bound.address.to_string(), cause };
    tcp.set_nonblocking(true).map_err(listen)?;
    unix.set_nonblocking(true).map_err(listen)?;
    let tcp = tokio::net::TcpListener::from_std(tcp).map_err(listen)?;
    let unix = tokio::net::UnixListener::from_std(unix).map_err(listen)?;

    core.recover()?;
    let (wake, woken) = crossbeam_channel::bounded(1);
    let looper = {
        let core = Arc::clone(&core);
        std::thread::Builder::new()
            .name("lifeboat-schedule".to_owned())
            .spawn(move || keep_time(&core, &woken))
            .map_err(DaemonError::Runtime)?
    };
    let (stop_serving, stopped) = watch::channel(false);
    let serving = tokio::spawn(api::serve(Arc::clone(&core), tcp, unix, stopped));
    info!(event = "daemon.started", address = %bound.address, socket = %bound.socket.display(),
        policies = core.config().policies.len(), "daemon started");
    tell(&[NotifyState::Ready]);
    if let Some(on_ready) = on_ready {
        on_ready(bound);
    }

    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => reload(&core, bound, &wake).await,
        }
    }
    info!(event = "daemon.stopping", running = core.jobs().running(), "daemon is stopping");
    tell(&[NotifyState::Stopping]);
    let _ = stop_serving.send(true);
    let draining = {
        let core = Arc::clone(&core);
        tokio::task::spawn_blocking(move || core.stop(DRAIN_MAX))
    };
    tokio::select! {
        _ = draining => {}
        // Whoever asks twice does not want to wait.
        _ = terminate.recv() => core.stop(Duration::ZERO),
        _ = interrupt.recv() => core.stop(Duration::ZERO),
    }
    drop(wake);
    // The loop ends at once: its channel is closed. A tick that hangs in the catalog is left behind.
    let _ = tokio::time::timeout(Duration::from_secs(2), tokio::task::spawn_blocking(move || looper.join())).await;
    let _ = tokio::time::timeout(Duration::from_secs(2), serving).await;
    Ok(())
}

/// The schedule's own loop: a round, a sign of life, a sleep.
fn keep_time(core: &Arc<Core>, woken: &Receiver<()>) {
    let watchdog = sd_notify::watchdog_enabled();
    let longest = watchdog.map_or(super::SLEEP_MAX, |limit| limit / 3);
    loop {
        // A panic here is a defect; it must not end the protection of every policy.
        let round = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| core.tick()));
        let sleep = match round {
            Ok(sleep) => {
                if watchdog.is_some() {
                    tell(&[NotifyState::Watchdog]);
                }
                if let Ok(status) = core.status() {
                    tell(&[NotifyState::Status(&status.sentence)]);
                }
                sleep
            }
            Err(_) => {
                error!(event = "scheduler.panic", "round of the scheduler panicked");
                Duration::from_secs(5)
            }
        };
        match woken.recv_timeout(sleep.min(longest)) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

async fn reload(core: &Arc<Core>, bound: &Bound, wake: &Sender<()>) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(cause) => warn!(error = %cause, "time of the reload is unknown to systemd"),
    }
    let before = core.config();
    let reader = Arc::clone(core);
    match tokio::task::spawn_blocking(move || reader.reload()).await {
        Ok(Ok(())) => {
            let after = core.config();
            info!(event = "config.reloaded", policies = after.policies.len(), "configuration reloaded");
            let fixed = |config: &crate::policy::DaemonConfig| {
                (config.listen, config.state.clone(), config.cache.clone(), config.socket.clone())
            };
            if fixed(&before.daemon) != fixed(&after.daemon) {
                warn!(event = "config.restart_needed", address = %bound.address,
                    "[daemon] listen, state, cache and socket change only with a restart");
            }
        }
        Ok(Err(problems)) => {
            for problem in &problems.list {
                error!(
                    event = "config.rejected",
                    code = problem.code,
                    file = problem.place.file,
                    line = problem.place.line,
                    "{}",
                    problem.message
                );
            }
            error!(
                event = "config.rejected",
                errors = problems.errors(),
                "new configuration refused; the old one stays"
            );
        }
        Err(_) => error!(event = "config.rejected", "reading the configuration panicked; the old one stays"),
    }
    tell(&[NotifyState::Ready]);
    // A full channel means that the loop is about to wake anyway.
    let _ = wake.try_send(());
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(cause) = sd_notify::notify(states) {
        warn!(error = %cause, "systemd could not be told");
    }
}

fn create_directory(path: &Path) -> Result<(), DaemonError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|cause| DaemonError::Directory { path: path.to_owned(), cause })
}

/// Binds the socket for its owner alone, in the place of one that a dead daemon left.
fn bind_unix(path: &Path) -> Result<UnixListener, DaemonError> {
    let refused = |cause| DaemonError::Listen { at: path.display().to_string(), cause };
    if let Some(parent) = path.parent() {
        create_directory(parent)?;
    }
    match path.symlink_metadata() {
        Ok(there) if there.file_type().is_socket() => match UnixStream::connect(path) {
            Ok(_) => {
                return Err(refused(std::io::Error::new(
                    std::io::ErrorKind::AddrInUse,
                    "another process listens there",
                )));
            }
            Err(_) => std::fs::remove_file(path).map_err(refused)?,
        },
        // Binding fails on anything else that stands there, and leaves it alone.
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(refused)?;
    // Until here, the process's umask keeps others from writing, which is what connecting takes.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(refused)?;
    Ok(listener)
}
