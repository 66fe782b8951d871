//! Which names the daemon answers to, and whose pages may ask it.
//!
//! Owns the checks of Host and Origin, which keep a web page in somebody's browser from talking to the daemon on the same
//! machine. Refuses tokens; `auth` has those.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use crate::daemon::Core;

pub async fn check(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let config = core.config();
    let hosts = &config.daemon.hosts;
    let answer = host(request.headers(), request.uri(), hosts).and_then(|host| origin(request.headers(), host));
    match answer {
        Ok(()) => next.run(request).await,
        Err(Refused::Host) if request.uri().path() == "/healthz" && request.headers().get(header::ORIGIN).is_none() => {
            next.run(request).await
        }
        Err(Refused::Host) => Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "host",
            "the Host header names neither loopback nor one of [daemon] hosts",
        )
        .into_response(),
        Err(Refused::Origin) => {
            Problem::new(StatusCode::FORBIDDEN, "origin", "another site's page may not ask this daemon").into_response()
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Refused {
    Host,
    Origin,
}

/// The host that was asked for, with its port, if it is one of ours.
fn host<'a>(headers: &'a HeaderMap, uri: &Uri, hosts: &[String]) -> Result<&'a str, Refused> {
    let mut named = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (named.next(), named.next()) else { return Err(Refused::Host) };
    let host = host.to_str().map_err(|_| Refused::Host)?;
    let authority_is_ours = uri.authority().is_none_or(|authority| is_ours(authority.as_str(), hosts));
    if is_ours(host, hosts) && authority_is_ours { Ok(host) } else { Err(Refused::Host) }
}

fn is_ours(host: &str, hosts: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        // In brackets, colons belong to the address.
        Some((name, port)) if !port.ends_with(']') => {
            if port.is_empty() || port.len() > 5 || !port.bytes().all(|byte| byte.is_ascii_digit()) {
                return false;
            }
            name
        }
        _ => host,
    };
    let name = name.to_ascii_lowercase();
    matches!(name.as_str(), "localhost" | "127.0.0.1" | "[::1]") || hosts.contains(&name)
}

/// An Origin, where one is sent, must be the very page that this daemon serves: same host, same port.
fn origin(headers: &HeaderMap, host: &str) -> Result<(), Refused> {
    let ours = |origin: &str| {
        let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host))
    };
    let mut origins = headers.get_all(header::ORIGIN).iter();
    if origins.all(|origin| origin.to_str().is_ok_and(ours)) { Ok(()) } else { Err(Refused::Origin) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_are_answered_to() {
        let hosts = ["backup.example".to_owned()];
        for good in ["localhost", "LOCALHOST:7420", "127.0.0.1:1", "[::1]", "[::1]:7420", "Backup.Example:443"] {
            assert!(is_ours(good, &hosts), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil",
            "localhost:",
            "localhost:x",
            "::1",
            "a@localhost",
        ] {
            assert!(!is_ours(bad, &hosts), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_ours_only_with_the_same_host_and_port() {
        let asked = |origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            super::origin(&headers, "localhost:7420")
        };
        assert_eq!(asked("http://localhost:7420"), Ok(()));
        for bad in ["http://localhost:3000", "http://localhost", "null", "http://evil.example", "file://"] {
            assert_eq!(asked(bad), Err(Refused::Origin), "{bad}");
        }
    }
}
