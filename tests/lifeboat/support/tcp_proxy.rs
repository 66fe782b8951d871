//! A bad line between a client and a server on loopback: slow, narrow, cut, reset, silent or down.
//!
//! Latency and bandwidth hold for all connections and may change at any time; a fate is laid on the n-th connection from
//! now on, or on every one that has none of its own. Knows TCP only: what is cut in two is bytes, not messages.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

const CHUNK_BYTES: usize = 16 << 10;
/// 64 × 16 KiB = 1 MiB is on its way at most, in each direction of each connection.
const CHUNKS_UNDER_WAY: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pass,
    /// Reset as soon as it is there.
    Refuse,
    /// Everything is taken, nothing is passed on, nothing comes back.
    BlackHole,
    /// Both ends are closed when so many bytes have gone this way.
    Cut(Direction, u64),
    /// Both ends are reset when so many bytes have gone this way.
    Reset(Direction, u64),
}

impl Fate {
    fn limit(self, way: Direction) -> Option<u64> {
        match self {
            Self::Cut(cut, bytes) | Self::Reset(cut, bytes) if cut == way => Some(bytes),
            _ => None,
        }
    }
}

struct Plan {
    /// By the number of the connection, counted from 1 over the proxy's life.
    fates: BTreeMap<u64, Fate>,
    others: Fate,
    latency: (Duration, Duration),
    bytes_per_second: Option<u64>,
    /// When the line is free again, where it is narrow.
    free_at: Instant,
    missed: BTreeMap<u64, Fate>,
}

struct Inner {
    to: SocketAddr,
    plan: Mutex<Plan>,
    connections: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
}

pub struct TcpProxy {
    inner: Arc<Inner>,
    address: SocketAddr,
    runtime: Option<Runtime>,
    /// Whoever listens and serves ends when this is dropped.
    up: Mutex<Option<watch::Sender<()>>>,
}

impl TcpProxy {
    pub fn to(server: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let plan = Plan {
            fates: BTreeMap::new(),
            others: Fate::Pass,
            latency: (Duration::ZERO, Duration::ZERO),
            bytes_per_second: None,
            free_at: Instant::now(),
            missed: BTreeMap::new(),
        };
        let (connections, to_server, to_client) = Default::default();
        let inner = Arc::new(Inner { to: server, plan: Mutex::new(plan), connections, to_server, to_client });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Self { inner, address, runtime: Some(runtime), up: Mutex::new(None) };
        proxy.listen(listener);
        proxy
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How long each byte travels.
    pub fn latency(&self, to_server: Duration, to_client: Duration) {
        self.inner.plan().latency = (to_server, to_client);
    }

    /// What all connections and both directions share.
    pub fn bytes_per_second(&self, rate: impl Into<Option<u64>>) {
        self.inner.plan().bytes_per_second = rate.into();
    }

    /// Lays `fate` on the connection number `number`, counted from 1 and from now.
    pub fn on_connection(&self, number: u64, fate: Fate) {
        assert!(number > 0, "connections are counted from 1");
        let number = self.connections() + number;
        let mut plan = self.inner.plan();
        plan.fates.insert(number, fate);
        plan.missed.insert(number, fate);
    }

    /// The fate of all further connections that have none of their own.
    pub fn every_connection(&self, fate: Fate) {
        self.inner.plan().others = fate;
    }

    /// Nobody listens any more, and every connection is cut.
    pub fn go_down(&self) {
        *self.up.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // The listener is closed by its task, soon; who connects until then is not served.
        while std::net::TcpStream::connect(self.address).is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn come_up(&self) {
        let listener = std::net::TcpListener::bind(self.address).expect("the port was ours and is free");
        self.listen(listener);
    }

    pub fn connections(&self) -> u64 {
        self.inner.connections.load(Ordering::SeqCst)
    }

    pub fn bytes(&self, way: Direction) -> u64 {
        match way {
            Direction::ToServer => self.inner.to_server.load(Ordering::SeqCst),
            Direction::ToClient => self.inner.to_client.load(Ordering::SeqCst),
        }
    }

    /// A test cannot pass by missing its subject.
    #[track_caller]
    pub fn assert_every_fate_was_met(&self) {
        let missed = &self.inner.plan().missed;
        assert!(missed.is_empty(), "fates that were not met: {missed:?}");
    }

    fn listen(&self, listener: std::net::TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let (up, down) = watch::channel(());
        *self.up.lock().unwrap_or_else(PoisonError::into_inner) = Some(up);
        let inner = Arc::clone(&self.inner);
        let runtime = self.runtime.as_ref().expect("until it is dropped");
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let mut gone = down.clone();
            loop {
                let accepted = tokio::select! {
                    _ = gone.changed() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((client, _)) = accepted else { continue };
                let number = inner.connections.fetch_add(1, Ordering::SeqCst) + 1;
                let (inner, mut gone) = (Arc::clone(&inner), down.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        _ = gone.changed() => {}
                        _ = inner.carry(number, client) => {}
                    }
                });
            }
        });
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Inner {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meet(&self, number: u64) {
        self.plan().missed.remove(&number);
    }

    async fn carry(&self, number: u64, mut client: TcpStream) -> io::Result<()> {
        let fate = {
            let plan = self.plan();
            plan.fates.get(&number).copied().unwrap_or(plan.others)
        };
        match fate {
            Fate::Pass => self.meet(number),
            Fate::Refuse => {
                self.meet(number);
                return client.set_zero_linger();
            }
            Fate::BlackHole => {
                self.meet(number);
                let mut swallowed = vec![0; CHUNK_BYTES];
                while client.read(&mut swallowed).await? > 0 {}
                return Ok(());
            }
            Fate::Cut(..) | Fate::Reset(..) => {}
        }
        let server = TcpStream::connect(self.to).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        if let Fate::Reset(..) = fate {
            client.set_zero_linger()?;
            server.set_zero_linger()?;
        }
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        let there = self.pump(client_read, server_write, Direction::ToServer, fate);
        let back = self.pump(server_read, client_write, Direction::ToClient, fate);
        tokio::pin!(there, back);
        // One way may end alone; a cut ends both.
        let cut = tokio::select! {
            cut = &mut there => cut || back.await,
            cut = &mut back => cut || there.await,
        };
        if cut {
            self.meet(number);
        }
        Ok(())
    }

    /// Carries bytes until they end; true: they were cut.
    async fn pump(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Direction, fate: Fate) -> bool {
        let (send, mut receive) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_UNDER_WAY);
        let reading = async move {
            loop {
                let mut chunk = vec![0; CHUNK_BYTES];
                let count = from.read(&mut chunk).await.unwrap_or(0);
                chunk.truncate(count);
                if count == 0 || send.send((Instant::now(), chunk)).await.is_err() {
                    return;
                }
            }
        };
        let writing = async move {
            let mut left = fate.limit(way);
            while let Some((read_at, mut chunk)) = receive.recv().await {
                let latency = self.plan().latency;
                tokio::time::sleep_until(read_at + if way == Direction::ToServer { latency.0 } else { latency.1 })
                    .await;
                let cut = left.is_some_and(|left| chunk.len() as u64 > left);
                if let Some(left) = &mut left {
                    chunk.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= chunk.len() as u64;
                }
                self.narrow(chunk.len() as u64).await;
                if to.write_all(&chunk).await.is_err() {
                    return false;
                }
                let counter = if way == Direction::ToServer { &self.to_server } else { &self.to_client };
                counter.fetch_add(chunk.len() as u64, Ordering::SeqCst);
                if cut {
                    return true;
                }
            }
            let _ = to.shutdown().await;
            false
        };
        tokio::pin!(reading, writing);
        tokio::select! {
            cut = &mut writing => cut,
            () = &mut reading => writing.await,
        }
    }

    /// Waits for so many bytes' turn on a narrow line.
    async fn narrow(&self, bytes: u64) {
        let free_at = {
            let mut plan = self.plan();
            let Some(rate) = plan.bytes_per_second else { return };
            let begin = plan.free_at.max(Instant::now());
            plan.free_at = begin + Duration::from_secs_f64(bytes as f64 / rate as f64);
            plan.free_at
        };
        tokio::time::sleep_until(free_at).await;
    }
}
