//! A bucket in a cloud, and the client that speaks to it.
//!
//! Owns clients: options, credentials, time limits, rates, and what an answer of the cloud means. A repository is kept in one (`store`), a policy
//! saves one (`source`), a restore fills one (`restore::upload`): those three are strangers to each other, and this is the floor that they share. Refuses to
//! know what the objects are, and to repeat a request, but for the later pages of a listing (`exact`): whoever knows
//! what a request means repeats it.
//!
//! Clouds are asked on a runtime of the bucket's own. Whoever calls may block, and never is a task of that runtime.

mod ask;
mod circuit;
mod connect;
mod exact;
pub mod key;
mod options;
mod rate;
pub mod refusal;
mod traffic;
mod wire;

use std::future::Future;
use std::io;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::client::HttpClient;
use object_store::path::Path;
use object_store::signer::Signer;
use tokio::runtime::Runtime;

use crate::address::BucketAddress;

pub use connect::ConnectError;
pub use exact::unescaped;
pub use options::{OptionError, Options, StorageClasses, Timeouts, class};
pub use refusal::{Kind, Refusal};
pub use traffic::Traffic;
use wire::Line;

/// A bucket, or what lies under one prefix of it. Cheap to clone.
#[derive(Clone)]
pub struct Bucket {
    url: Arc<str>,
    prefix: Path,
    objects: Arc<dyn ObjectStore>,
    /// What signs requests that `objects` has no call for, and sends them; none over a client that was handed in.
    side: Option<(Arc<dyn Signer>, HttpClient)>,
    line: Option<Arc<Line>>,
    runtime: Arc<Threads>,
}

/// The runtime, let go without waiting: the last owner may be a task of another one, which must not block.
struct Threads(Option<Runtime>);

impl Threads {
    fn start() -> io::Result<Arc<Self>> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        Ok(Arc::new(Self(Some(builder.worker_threads(2).thread_name("bucket").enable_all().build()?))))
    }

    fn handle(&self) -> &tokio::runtime::Handle {
        self.0.as_ref().expect("it is taken only when dropped").handle()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Bucket {
    /// A client of the bucket at `address`. Makes no request.
    pub fn open(address: &BucketAddress, options: &Options) -> Result<Self, ConnectError> {
        let rate = |rate: Option<crate::units::ByteCount>| rate.map(|rate| rate.0);
        let line = Arc::new(Line::new(
            &address.bucket,
            options.metadata_credentials,
            options.connections,
            rate(options.upload_rate),
            rate(options.download_rate),
        ));
        let (objects, side) = connect::connect(address, options, &line)?;
        let runtime =
            Threads::start().map_err(|cause| ConnectError::Runtime { address: address.to_string(), cause })?;
        Ok(Self {
            url: address.to_string().into(),
            prefix: path(&address.prefix),
            objects,
            side: Some(side),
            line: Some(line),
            runtime,
        })
    }

    /// What `objects` holds under `prefix`, called `url` before people: no secret may be in it.
    pub fn over(objects: Arc<dyn ObjectStore>, url: &str, prefix: &str) -> io::Result<Self> {
        let runtime = Threads::start()?;
        Ok(Self { url: url.into(), prefix: path(prefix), objects, side: None, line: None, runtime })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// What stands before every key, without slashes at its ends; empty for a whole bucket.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// The client. Its calls are awaited by `wait`, on the bucket's runtime. Errors hold a `Refusal` wherever the cloud refused (`refusal::of`).
    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    /// Seconds that this machine's clock is ahead of the cloud's, by its last answer.
    pub fn clock_ahead(&self) -> Option<i64> {
        self.line.as_ref().and_then(|line| line.clock_ahead())
    }

    /// Requests so far.
    pub fn traffic(&self) -> Traffic {
        self.line.as_ref().map(|line| line.traffic()).unwrap_or_default()
    }

    /// Where futures of the client run.
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        self.runtime.handle()
    }

    /// Runs a future of the client to its end on the bucket's runtime, while this thread waits.
    pub fn wait<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        self.runtime.handle().spawn(async move {
            let _ = send.send(future.await); // nobody waits any more
        });
        receive.recv().map_err(|_| io::Error::other("a request to the cloud panicked"))
    }
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bucket({})", self.url)
    }
}

/// The path of a prefix. Escaped as it is, every client takes it.
fn path(prefix: &str) -> Path {
    if prefix.is_empty() {
        return Path::default();
    }
    Path::parse(key::to_path(prefix)).unwrap_or_else(|_| Path::from(prefix))
}
