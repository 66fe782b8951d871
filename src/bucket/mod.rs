//! A bucket in a cloud, and the client that speaks to it.
//!
//! Owns clients: addresses' meaning, options, credentials, time limits, repeats, and what an answer of the cloud means. A
//! repository is kept in one (`store`), a policy saves one (`source`), a restore fills one (`target`): those three are strangers
//! to each other, and this is the floor that they share. Refuses to know what the objects are.
//!
//! Clouds are asked on a runtime of the bucket's own. Whoever calls may block, and never is a task of that runtime.

pub mod key;

use std::future::Future;
use std::io;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;
use tokio::runtime::Runtime;

/// A bucket, or what lies under one prefix of it. Cheap to clone.
#[derive(Clone)]
pub struct Bucket {
    url: Arc<str>,
    prefix: Path,
    objects: Arc<dyn ObjectStore>,
    runtime: Arc<Runtime>,
}

impl Bucket {
    /// What `objects` holds under `prefix`, called `url` before people: no secret may be in it.
    pub fn over(objects: Arc<dyn ObjectStore>, url: &str, prefix: &str) -> io::Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("bucket").enable_all().build()?;
        Ok(Self { url: url.into(), prefix: Path::from(prefix), objects, runtime: Arc::new(runtime) })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// What stands before every key, without slashes at its ends; empty for a whole bucket.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// The client. Its calls are awaited by `wait`, on the bucket's runtime.
    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    /// Where futures of the client run.
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        self.runtime.handle()
    }

    /// Runs a future of the client to its end on the bucket's runtime, while this thread waits.
    pub fn wait<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        self.runtime.spawn(async move {
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
