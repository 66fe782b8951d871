//! HTTP/1.1 on a loopback port, served on a runtime of its own: the floor under doubles of clouds.
//!
//! Requests arrive whole. An answer may also be that the connection ends without one.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::runtime::Runtime;

/// More than any test sends at once.
const REQUEST_BYTES_MAX: usize = 256 << 20;

/// A request with its escapes undone.
pub struct Asked {
    pub method: Method,
    /// Without the slash it begins with.
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Asked {
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

pub enum Given {
    Answer(Response<Body>),
    /// The connection is closed instead.
    HangUp,
}

/// A server; gone when it is dropped.
pub struct Loopback {
    pub address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Loopback {
    pub fn serve<F, A>(answer: F) -> Self
    where
        F: Fn(Asked) -> A + Send + Sync + 'static,
        A: Future<Output = Given> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let answer = Arc::new(answer);
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    let service = hyper::service::service_fn(move |request| {
                        let answer = Arc::clone(&answer);
                        async move {
                            match answer(read(request).await?).await {
                                Given::Answer(response) => Ok(response),
                                Given::HangUp => Err(io::Error::other("the test hangs up")),
                            }
                        }
                    });
                    // A client that goes away is no news.
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, runtime: Some(runtime) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background(); // allowed on a thread of another runtime too
        }
    }
}

async fn read(request: Request<Incoming>) -> io::Result<Asked> {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(Body::new(body), REQUEST_BYTES_MAX).await.map_err(io::Error::other)?;
    let query = head.uri.query().unwrap_or("").split('&').filter(|pair| !pair.is_empty());
    let query = query.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (plain(&name.replace('+', " ")), plain(&value.replace('+', " ")))
    });
    Ok(Asked {
        method: head.method,
        path: plain(head.uri.path().trim_start_matches('/')),
        query: query.collect(),
        headers: head.headers,
        body,
    })
}

/// Without `%` escapes.
fn plain(text: &str) -> String {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or("").as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at(2);
        bytes.push(u8::from_str_radix(digits, 16).expect("a client escapes well"));
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).expect("a client speaks UTF-8")
}
