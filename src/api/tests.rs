//! What the endpoint promises, asked without a socket.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use serde_json::Value;
use tower::ServiceExt;

use super::Peer;
use crate::catalog::Role;
use crate::daemon::engine::RunReport;
use crate::daemon::testing::{Bench, HOME, good};

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

struct Ask<'a> {
    bench: &'a Bench,
    peer: Peer,
}

fn tcp() -> Peer {
    Peer::Tcp("127.0.0.1:5555".parse().unwrap())
}

impl Ask<'_> {
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost:7420");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body.into()).unwrap();
        request.extensions_mut().insert(self.peer);
        let response = super::router(Arc::clone(&self.bench.core)).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 24).await.unwrap().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Body::empty()).await
    }
}

fn anyone(bench: &Bench) -> Ask<'_> {
    Ask { bench, peer: tcp() }
}

/// A peer of the Unix socket with all rights.
fn root(bench: &Bench) -> Ask<'_> {
    Ask { bench, peer: Peer::Unix { uid: 0 } }
}

fn token(bench: &Bench, role: Role) -> String {
    let core = &bench.core;
    let (_, secret) = core.catalog.token_create(&format!("{role} token"), role, None, core.now()).unwrap();
    format!("Bearer {}", secret.reveal())
}

const OPEN: [(&str, &str); 5] =
    [("GET", "/"), ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics"), ("GET", "/v1/status")];

/// Every other route with the least role that may use it, and the answer that this role gets.
const CLOSED: [(&str, &str, Role, u16); 8] = [
    ("GET", "/v1/policies", Role::Read, 200),
    ("GET", "/v1/policies/home", Role::Read, 200),
    ("GET", "/v1/runs", Role::Read, 200),
    ("GET", "/v1/runs/0123456789ABCDEFGHJKMNPQRS", Role::Read, 404),
    ("GET", "/v1/drill-runs/0123456789ABCDEFGHJKMNPQRS", Role::Read, 404),
    ("POST", "/v1/policies/home/runs", Role::Run, 202),
    ("POST", "/v1/drills/home/runs", Role::Drill, 202),
    ("POST", "/v1/runs/0123456789ABCDEFGHJKMNPQRS/cancel", Role::Run, 404),
];

#[tokio::test]
async fn every_route_answers_the_right_token_and_no_other() {
    for (method, path, least, good) in CLOSED {
        let bench = Bench::new(HOME);
        let core = &bench.core;
        let wrong = format!("Bearer lb_{}", "0".repeat(64));
        let (_, old) = core.catalog.token_create("old", Role::Admin, Some(core.now()), core.now()).unwrap();
        let (_, revoked) = core.catalog.token_create("revoked", Role::Admin, None, core.now()).unwrap();
        core.catalog.token_revoke("revoked", core.now()).unwrap();
        let bad = [
            String::new(),
            wrong,
            format!("Bearer {}", old.reveal()),
            format!("Bearer {}", revoked.reveal()),
            token(&bench, Role::Admin).replace("Bearer ", "Bearer x"),
            token(&bench, Role::Read).replace("Bearer ", ""),
            "Basic eDp5".to_owned(),
        ];
        let ask = anyone(&bench);
        for value in &bad {
            let headers: &[(&str, &str)] = if value.is_empty() { &[] } else { &[("authorization", value)] };
            let answer = ask.send(method, path, headers, Body::empty()).await;
            assert_eq!(answer.status, 401, "{method} {path} with {value:?}");
            assert!(answer.header("www-authenticate").starts_with("Bearer"), "{path}");
            assert_eq!(answer.header("content-type"), "application/problem+json");
            assert_eq!(answer.json()["status"], 401);
        }
        for role in Role::ALL.iter().copied().filter(|role| *role < least && *role != Role::Read) {
            let answer = ask.send(method, path, &[("authorization", &token(&bench, role))], Body::empty()).await;
            assert_eq!(answer.status, 403, "{method} {path} as {role}");
        }
        assert_eq!(core.catalog.runs(&Default::default(), 10).unwrap(), [], "a refused request leaves no trace");
        let (_, secret) = core.catalog.token_create("right", least, None, core.now()).unwrap();
        let right = format!("Bearer {}", secret.reveal());
        let answer = ask.send(method, path, &[("authorization", &right)], Body::empty()).await;
        assert_eq!(answer.status, good, "{method} {path} as {least}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_reader_may_start_nothing() {
    let bench = Bench::new(HOME);
    let reader = token(&bench, Role::Read);
    for (method, path, least, _) in CLOSED {
        let answer = anyone(&bench).send(method, path, &[("authorization", &reader)], Body::empty()).await;
        assert_eq!(answer.status == 403, least > Role::Read, "{method} {path}");
    }
    assert_eq!(bench.core.catalog.runs(&Default::default(), 10).unwrap(), []);
}

#[tokio::test]
async fn the_open_pages_are_open_until_that_is_turned_off() {
    let bench = Bench::new(HOME);
    for (method, path) in OPEN {
        assert_eq!(anyone(&bench).send(method, path, &[], Body::empty()).await.status, 200, "{path}");
    }
    let bench = Bench::with_daemon("open_status = false", HOME);
    let reader = token(&bench, Role::Read);
    for (method, path) in OPEN {
        let closed = anyone(&bench).send(method, path, &[], Body::empty()).await;
        assert_eq!(closed.status, if path == "/healthz" { 200 } else { 401 }, "{path}");
        let answer = anyone(&bench).send(method, path, &[("authorization", &reader)], Body::empty()).await;
        assert_eq!(answer.status, 200, "{path}");
    }
    assert_eq!(anyone(&bench).get("/").await.header("www-authenticate").split(' ').next(), Some("Basic"));
}

#[tokio::test]
async fn a_browser_brings_the_token_as_a_password_to_the_page_alone() {
    let bench = Bench::with_daemon("open_status = false", HOME);
    let secret = token(&bench, Role::Admin).replace("Bearer ", "");
    let basic = format!("Basic {}", encode(format!("me:{secret}").as_bytes()));
    let asked = |path: &'static str| {
        let (bench, basic) = (&bench, basic.clone());
        async move { anyone(bench).send("GET", path, &[("authorization", &basic)], Body::empty()).await.status }
    };
    assert_eq!(asked("/").await, 200);
    assert_eq!(asked("/v1/status").await, 401);
    assert_eq!(asked("/v1/runs").await, 401);
}

fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = char::from(DIGITS[(bits >> (18 - place * 6) & 63) as usize]);
            text.push(if place <= group.len() { digit } else { '=' });
        }
    }
    text
}

#[tokio::test]
async fn the_socket_trusts_root_and_its_own_user_alone() {
    let bench = Bench::new(HOME);
    let own = rustix::process::geteuid().as_raw();
    for (uid, status) in [(0, 200), (own, 200), (own + 1000, 401)] {
        let ask = Ask { bench: &bench, peer: Peer::Unix { uid } };
        assert_eq!(ask.get("/v1/runs").await.status, status, "{uid}");
    }
}

#[tokio::test]
async fn another_host_is_not_answered_and_another_origin_is_refused() {
    let bench = Bench::with_daemon("hosts = [\"backup.example\"]", HOME);
    let ask = anyone(&bench);
    let mut paths: Vec<_> = OPEN.iter().map(|(method, path)| (*method, *path)).collect();
    paths.extend(CLOSED.iter().map(|(method, path, _, _)| (*method, *path)));
    let admin = token(&bench, Role::Admin);
    for (method, path) in paths {
        let auth = ("authorization", admin.as_str());
        let hosted = ask.send(method, path, &[("host", "evil.example"), auth], Body::empty()).await;
        assert_eq!(hosted.status, if path == "/healthz" { 200 } else { 421 }, "{path}");
        for origin in ["http://evil.example", "null", "http://localhost:3000"] {
            let foreign = ask.send(method, path, &[("origin", origin), auth], Body::empty()).await;
            assert_eq!(foreign.status, 403, "{path} from {origin}");
        }
    }
    assert_eq!(bench.core.catalog.runs(&Default::default(), 10).unwrap(), []);
    for host in ["127.0.0.1", "[::1]:7420", "backup.example:443"] {
        assert_eq!(ask.send("GET", "/v1/status", &[("host", host)], Body::empty()).await.status, 200, "{host}");
    }
    let ours = [("host", "localhost:7420"), ("origin", "http://localhost:7420")];
    assert_eq!(ask.send("GET", "/v1/status", &ours, Body::empty()).await.status, 200);
    let foreign = [("host", "evil.example"), ("origin", "http://evil.example")];
    assert_ne!(ask.send("GET", "/healthz", &foreign, Body::empty()).await.status, 200);
}

#[tokio::test]
async fn refusals_are_problem_documents() {
    let bench = Bench::new(HOME);
    let ask = root(&bench);
    let cases = [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/policies/none", 404),
        ("POST", "/v1/policies/none/runs", 404),
        ("POST", "/v1/drills/NONE/runs", 404),
        ("GET", "/v1/runs/short", 404),
        ("DELETE", "/v1/status", 405),
        ("POST", "/healthz", 405),
        ("GET", "/v1/policies/home/runs", 405),
        ("GET", "/v1/runs?limit=0", 400),
        ("GET", "/v1/runs?limit=501", 400),
        ("GET", "/v1/runs?state=odd", 400),
        ("GET", "/v1/runs?cursor=x", 400),
        ("GET", "/v1/runs?sort=up", 400),
    ];
    for (method, path, status) in cases {
        let answer = ask.send(method, path, &[], Body::empty()).await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{method} {path}");
        assert_eq!(answer.json()["status"], status);
        assert!(answer.json()["type"].as_str().unwrap().starts_with("urn:lifeboat:problem:"));
        assert_eq!(status == 405, !answer.header("allow").is_empty(), "{method} {path}");
    }
}

#[tokio::test]
async fn a_body_is_small_json_or_nothing() {
    let bench = Bench::new(HOME);
    let ask = root(&bench);
    let json = ("content-type", "application/json");
    let post = |headers: &'static [(&'static str, &'static str)], body: Vec<u8>| {
        let ask = &ask;
        async move { ask.send("POST", "/v1/drills/home/runs", headers, body).await.status }
    };
    const JSON: &[(&str, &str)] = &[("content-type", "application/json; charset=utf-8")];
    assert_eq!(post(JSON, vec![b' '; (1 << 20) + 1]).await, 413);
    assert_eq!(post(&[], b"{}".to_vec()).await, 415);
    assert_eq!(post(&[("content-type", "application/x-www-form-urlencoded")], b"files=3".to_vec()).await, 415);
    assert_eq!(post(JSON, b"{\"files\": \"all\"}".to_vec()).await, 400);
    assert_eq!(post(JSON, b"{\"path\": \"/etc\"}".to_vec()).await, 400);
    assert_eq!(post(JSON, b"{\"files\": 0}".to_vec()).await, 422);
    assert_eq!(bench.core.catalog.runs(&Default::default(), 10).unwrap(), []);
    let answer = ask.send("POST", "/v1/drills/home/runs", &[json], "{\"files\": 7}").await;
    assert_eq!(answer.status, 202);
    bench.settle();
    let shown = ask.get(answer.header("location")).await.json();
    assert_eq!((&shown["verdict"], &shown["drill"]["checked_files"]), (&"pass".into(), &7.into()), "{shown}");
}

#[tokio::test]
async fn a_key_makes_one_drill_of_two_requests() {
    let bench = Bench::new(HOME);
    bench.engine.shut();
    let ask = root(&bench);
    let keyed = |key: &'static str, body: &'static str| {
        let ask = &ask;
        async move {
            let headers = [("idempotency-key", key), ("content-type", "application/json")];
            ask.send("POST", "/v1/drills/home/runs", &headers, body).await
        }
    };
    let first = keyed("one", "{\"files\": 3}").await;
    assert_eq!((first.status.as_u16(), first.header("idempotency-replayed")), (202, ""));
    bench.wait_begun(1);
    let again = keyed("one", "{ \"files\":3 }").await;
    assert_eq!((again.status.as_u16(), again.header("idempotency-replayed")), (202, "true"));
    assert_eq!((again.header("location"), &again.body), (first.header("location"), &first.body));
    assert_eq!(keyed("one", "{\"files\": 4}").await.status, 422);
    let busy = ask.send("POST", "/v1/drills/home/runs", &[], Body::empty()).await;
    assert_eq!((busy.status.as_u16(), busy.header("location")), (409, first.header("location")));
    let other = keyed("two", "{\"files\": 3}").await;
    assert_eq!(other.status, 202);
    assert_ne!(other.header("location"), first.header("location"));
    bench.engine.open();
    bench.settle();
    assert_eq!(ask.send("POST", "/v1/drills/home/runs", &[], Body::empty()).await.status, 202);
    bench.settle();
}

#[tokio::test]
async fn a_second_backup_of_a_policy_is_a_conflict_that_names_the_first() {
    let bench = Bench::new(HOME);
    bench.engine.shut();
    let ask = root(&bench);
    let first = ask.send("POST", "/v1/policies/home/runs", &[], Body::empty()).await;
    let second = ask.send("POST", "/v1/policies/home/runs", &[], Body::empty()).await;
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (202, 409));
    assert_eq!(second.header("location"), first.header("location"));
    bench.engine.open();
    bench.settle();
}

#[tokio::test]
async fn a_run_can_be_cancelled_once() {
    let bench = Bench::new(HOME);
    bench.engine.shut();
    let ask = root(&bench);
    let started = ask.send("POST", "/v1/policies/home/runs", &[], Body::empty()).await;
    bench.wait_begun(1);
    let path = format!("{}/cancel", started.header("location"));
    assert_eq!(ask.send("POST", &path, &[], Body::empty()).await.status, 202);
    bench.settle();
    assert_eq!(ask.get(started.header("location")).await.json()["state"], "cancelled");
    assert_eq!(ask.send("POST", &path, &[], Body::empty()).await.status, 409);
}

#[tokio::test]
async fn a_listing_goes_on_where_its_cursor_stands() {
    let bench = Bench::new(HOME);
    let ask = root(&bench);
    for _ in 0..3 {
        assert_eq!(ask.send("POST", "/v1/policies/home/runs", &[], Body::empty()).await.status, 202);
        bench.settle();
    }
    let first = ask.get("/v1/runs?limit=2&kind=backup&policy=home").await;
    let link = first.header("link").to_owned();
    let next = link.strip_prefix('<').and_then(|link| link.split_once(">; rel=\"next\"")).unwrap().0.to_owned();
    let second = ask.get(&next).await;
    let ids = |answer: &Answer| -> Vec<String> {
        answer.json()["runs"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect()
    };
    let all = ids(&ask.get("/v1/runs").await);
    assert_eq!([ids(&first), ids(&second)].concat(), all);
    assert_eq!((all.len(), second.header("link")), (3, ""));
    assert!(all.is_sorted_by(|a, b| a > b), "newest first");
    assert_eq!(ids(&ask.get("/v1/runs?state=failed").await), Vec::<String>::new());
}

#[tokio::test]
async fn a_stopping_daemon_takes_no_runs_and_is_not_ready() {
    let bench = Bench::new(HOME);
    bench.core.stop(std::time::Duration::from_secs(1));
    let ask = root(&bench);
    assert_eq!(ask.get("/readyz").await.status, 503);
    assert_eq!(ask.get("/healthz").await.status, 200);
    assert_eq!(ask.send("POST", "/v1/policies/home/runs", &[], Body::empty()).await.status, 503);
}

#[tokio::test]
async fn a_policy_is_shown_as_it_is_in_force_and_keep_as_not_active() {
    let bench = Bench::new(HOME);
    let shown = root(&bench).get("/v1/policies/home").await.json();
    assert_eq!(shown["source"]["paths"][0], "/srv/home");
    assert_eq!(shown["keep"]["active"], false);
    assert_eq!(shown["repository"]["key"], "file:/etc/lifeboat/web1.key");
    assert_eq!(shown["status"]["state"], "waiting");
    assert_eq!(root(&bench).get("/v1/policies").await.json()["policies"][0], shown);
}

#[tokio::test]
async fn the_status_answers_whether_we_can_recover() {
    let bench = Bench::new(HOME);
    let ask = anyone(&bench);
    assert_eq!(ask.get("/v1/status").await.json()["recoverable"]["answer"], "no");
    for path in ["/v1/policies/home/runs", "/v1/drills/home/runs"] {
        root(&bench).send("POST", path, &[], Body::empty()).await;
        bench.settle();
    }
    let status = ask.get("/v1/status").await.json();
    assert_eq!(status["recoverable"]["answer"], "yes", "{status}");
    assert_eq!(status["policies"][0]["last_good_point"]["age_seconds"], 0);
    assert!(status["policies"][0]["last_restored_at"].is_string());
    assert_eq!(status["policies"][0]["next_run_at"], "2027-01-16T02:00:00Z");
}

#[tokio::test]
async fn the_page_shows_text_as_text_and_loads_nothing() {
    let bench = Bench::new(&format!("{HOME}tags = [\"a<b>&\\\"c\"]\n"));
    bench.engine.answers(|task, files, run| match files {
        None => RunReport::failed("source", "<img src=x onerror=alert(1)> could not be read"),
        Some(_) => good(task, files, run),
    });
    root(&bench).send("POST", "/v1/policies/home/runs", &[], Body::empty()).await;
    bench.settle();
    let page = anyone(&bench).get("/").await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let policy = page.header("content-security-policy").to_owned();
    assert!(policy.starts_with("default-src 'none'; style-src 'nonce-"), "{policy}");
    let html = page.text();
    assert!(html.contains("&lt;img src=x onerror=alert(1)&gt; could not be read"));
    assert!(html.contains("a&lt;b&gt;&amp;&quot;c"));
    assert!(!html.contains("<img") && !html.contains("<script") && !html.contains(" style="), "{html}");
    assert!(!html.contains("src=\"") && !html.contains("url("));
    assert!(html.contains("not active yet") && html.contains("NO POINT"));
    let nonce = policy.split("nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert!(html.contains(&format!("<style nonce=\"{nonce}\">")));
    assert_ne!(anyone(&bench).get("/").await.header("content-security-policy"), policy);
}

#[tokio::test]
async fn metrics_are_well_formed_and_go_on_after_a_restart() {
    let bench = Bench::new(HOME);
    for path in ["/v1/policies/home/runs", "/v1/drills/home/runs"] {
        root(&bench).send("POST", path, &[], Body::empty()).await;
        bench.settle();
    }
    let bench = bench.crash_and_start(5);
    let answer = anyone(&bench).get("/metrics").await;
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.text();
    let mut typed = std::collections::HashMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(typed.insert(name.to_owned(), kind.to_owned()), None, "{name} twice");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            assert!(typed.contains_key(name), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    for line in [
        "lifeboat_run_total{policy=\"home\",kind=\"backup\",result=\"succeeded\"} 1",
        "lifeboat_run_total{policy=\"home\",kind=\"backup\",result=\"failed\"} 0",
        "lifeboat_run_total{policy=\"home\",kind=\"drill\",result=\"succeeded\"} 1",
        "lifeboat_occurrence_missed_total{policy=\"home\",kind=\"backup\",reason=\"overlap\"} 0",
        "lifeboat_recovery_point_timestamp_seconds{policy=\"home\",repository=\"main\"} 1800000000.000",
        "lifeboat_next_run_timestamp_seconds{policy=\"home\",kind=\"backup\"} 1800064800.000",
        "lifeboat_drill_checks{drill=\"home\",result=\"pass\"} 60",
        "lifeboat_bytes_total{policy=\"home\",stage=\"stored\"} 307200",
        "lifeboat_source_files{policy=\"home\"} 12",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
}
