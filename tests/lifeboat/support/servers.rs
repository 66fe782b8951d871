//! Real servers of clouds, for tests that want more than a double.
//!
//! moto (S3) and Azurite (Azure Blob) are started by the first test that asks, from where `scripts/test` installs them, on free loopback ports; all
//! tests of one process share them, each with buckets of its own. They end with the process, however that ends: a shell waits for the end of a pipe
//! whose other end only this process holds, and then kills its child. A test whose server is not installed fails and says what to do: no test is
//! skipped in silence.
//!
//! Ceph and Garage are clusters, which take long to install and to begin. Their tests are `#[ignore]`d by name, and `scripts/test --long` runs them
//! below `scripts/servers.d/with-ceph` and `with-garage`, which say by `LIFEBOAT_TEST_CEPH` and `LIFEBOAT_TEST_GARAGE` where they are.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpRequest, HttpRequestBody};

use super::service::until;

/// Keeps its child until its input ends. An interrupt from the terminal ends this process first, and then the input.
const SHELL: &str = r#"trap '' INT; "$0" "$@" & server=$!; read -r _; kill "$server"; wait"#;

/// The account that Azurite and its documentation give to everybody.
pub const AZURE_ACCOUNT: &str = "devstoreaccount1";
pub const AZURE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

pub struct Server {
    pub address: SocketAddr,
    /// Access key and secret, where it speaks S3.
    pub keys: Option<(&'static str, &'static str)>,
    _shell: Option<Mutex<Child>>,
}

pub fn moto() -> &'static Server {
    static MOTO: OnceLock<Server> = OnceLock::new();
    MOTO.get_or_init(|| {
        start("moto", "moto-5.2.5/bin/moto_server", &["-H", "127.0.0.1", "-p"], Some(("dummy", "dummy")))
    })
}

pub fn azurite() -> &'static Server {
    static AZURITE: OnceLock<Server> = OnceLock::new();
    let arguments = [
        "--silent",
        "--inMemoryPersistence",
        "--skipApiVersionCheck",
        "--disableTelemetry",
        "--blobHost",
        "127.0.0.1",
        "--blobPort",
    ];
    AZURITE.get_or_init(|| start("azurite", "azurite-3.37.0/node_modules/.bin/azurite-blob", &arguments, None))
}

pub fn ceph() -> Server {
    cluster("LIFEBOAT_TEST_CEPH", ("lifeboat", "lifeboatsecret"))
}

pub fn garage() -> Server {
    let secret = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    cluster("LIFEBOAT_TEST_GARAGE", ("GK0123456789abcdef01234567", secret))
}

fn cluster(variable: &str, keys: (&'static str, &'static str)) -> Server {
    let url = std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run scripts/test --long"));
    let address = url.trim_start_matches("http://").parse().unwrap();
    Server { address, keys: Some(keys), _shell: None }
}

/// Starts a server whose last argument is its port.
fn start(name: &str, program: &str, arguments: &[&str], keys: Option<(&'static str, &'static str)>) -> Server {
    let installed = std::env::var_os("LIFEBOAT_TEST_SERVERS").map(PathBuf::from);
    let installed =
        installed.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/lifeboat-servers")));
    let program = installed.unwrap_or_default().join(program);
    assert!(program.exists(), "{} is not there: run scripts/test once, which installs it", program.display());
    let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.log", std::process::id()));
    // A port that was free a moment ago may be somebody's by now: then the next one.
    for _ in 0..5 {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let out = File::create(&log).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", SHELL]).arg(&program).args(arguments).arg(port.to_string());
        command.stdin(Stdio::piped()).stdout(out.try_clone().unwrap()).stderr(out);
        let mut shell = command.spawn().unwrap();
        // The shell's child may end; then nobody will listen there, or somebody else does: the log tells.
        let up = until(name, || match TcpStream::connect(address) {
            Ok(_) => Some(true),
            Err(_) => std::fs::read_to_string(&log).unwrap().contains("in use").then_some(false),
        });
        if up {
            return Server { address, keys, _shell: Some(Mutex::new(shell)) };
        }
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }
    panic!("{name} did not start: {}", std::fs::read_to_string(&log).unwrap());
}

impl Server {
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes a bucket that nobody else has.
    pub fn bucket(&self) -> String {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let path = match self.keys {
            Some(_) => format!("/{name}"),
            None => format!("/{AZURE_ACCOUNT}/{name}?restype=container"),
        };
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = http::Method::PUT;
        *request.uri_mut() = format!("{}{path}", self.url()).parse().unwrap();
        match self.keys {
            Some((id, secret)) => {
                let credential = AwsCredential { key_id: id.into(), secret_key: secret.into(), token: None };
                AwsAuthorizer::new(&credential, "s3", "us-east-1").try_authorize(&mut request, None).unwrap();
            }
            None => {
                let credential = AzureCredential::AccessKey(AzureAccessKey::try_new(AZURE_KEY).unwrap());
                AzureAuthorizer::new(&credential, AZURE_ACCOUNT).try_authorize(&mut request).unwrap();
            }
        }
        let answer = self.send(&path, &request);
        let status = answer.split(' ').nth(1);
        assert!(matches!(status, Some("200" | "201")), "{name} was not made: {answer}");
        name
    }

    fn send(&self, path: &str, request: &HttpRequest) -> String {
        let mut text = format!("PUT {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n");
        if !request.headers().contains_key("host") {
            text += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in request.headers() {
            text += &format!("{name}: {}\r\n", value.to_str().unwrap());
        }
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all((text + "\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}
