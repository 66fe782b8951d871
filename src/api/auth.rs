//! Who asks, and whether they may.
//!
//! Owns the check of tokens and socket peers against what a route needs. Refuses cookies: without them, another site's page
//! has nothing to ride on. There is no switch that turns this off; `open_status` opens five pages to readers on this machine.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use crate::catalog::{Role, Token};
use crate::daemon::Core;

/// The other end of a connection, as the kernel tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    Unix { uid: u32 },
}

/// What a route asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Nothing,
    /// A reader, or anybody on this machine while `open_status` is on.
    ReadUnlessOpen,
    /// The same, and a browser may bring the token as the password of HTTP Basic.
    PageUnlessOpen,
    Role(Role),
}

/// Whoever asks, after the check.
#[derive(Clone, Debug)]
pub struct Caller {
    /// `token NAME`, `uid 0`, `anyone`.
    pub name: String,
}

pub async fn check(State((core, need)): State<(Arc<Core>, Need)>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    match caller(&core, need, peer, request.headers(), request.uri().path()).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

async fn caller(
    core: &Arc<Core>,
    need: Need,
    peer: Option<Peer>,
    headers: &HeaderMap,
    path: &str,
) -> Result<Caller, Problem> {
    let anyone = || Ok(Caller { name: "anyone".to_owned() });
    let role = match need {
        Need::Nothing => return anyone(),
        Need::ReadUnlessOpen | Need::PageUnlessOpen if core.config().daemon.open_status => return anyone(),
        Need::ReadUnlessOpen | Need::PageUnlessOpen => Role::Read,
        Need::Role(role) => role,
    };
    // Whoever runs as the daemon's user, or as root, could read its keys anyway.
    if let Some(Peer::Unix { uid }) = peer
        && (uid == 0 || uid == rustix::process::geteuid().as_raw())
    {
        return Ok(Caller { name: format!("uid {uid}") });
    }
    let basic = need == Need::PageUnlessOpen;
    let challenge = if basic { "Basic realm=\"Lifeboat\", charset=\"UTF-8\"" } else { "Bearer realm=\"Lifeboat\"" };
    let unknown = |detail: &str| {
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).with(header::WWW_AUTHENTICATE, challenge)
    };
    let Some(shown) = shown_token(headers, basic) else {
        return Err(unknown("this needs a token: Authorization: Bearer lb_…"));
    };
    let token = look_up(core, shown).await?;
    let Some(token) = token else {
        tracing::warn!(event = "auth.denied", path, peer = ?peer, "unknown token refused");
        return Err(unknown("the token is unknown, revoked or out of date"));
    };
    if token.role < role {
        tracing::warn!(event = "auth.denied", path, token = token.name, "token without the role refused");
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "role",
            format!("this needs the role {role}; the token has {}", token.role),
        ));
    }
    Ok(Caller { name: format!("token {}", token.name) })
}

async fn look_up(core: &Arc<Core>, shown: String) -> Result<Option<Token>, Problem> {
    let core = Arc::clone(core);
    super::runs::blocking(move || Ok(core.catalog.token_check(&shown, core.now())?)).await
}

fn shown_token(headers: &HeaderMap, basic: bool) -> Option<String> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    if basic && scheme.eq_ignore_ascii_case("basic") {
        let decoded = String::from_utf8(base64(rest)?).ok()?;
        return decoded.split_once(':').map(|(_, password)| password.to_owned());
    }
    None
}

/// The bytes of a base 64 text (RFC 4648, section 4); none if it is anything else.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let mut bits = 0u32;
    let mut held = 0;
    for byte in text.bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits & 0xff) << 6 | u32::from(digit);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_the_standard_writes_it() {
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")] {
            assert_eq!(base64(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        assert_eq!(base64("Zm9*"), None);
        assert_eq!(base64("/+8=").as_deref(), Some(&[0xff, 0xef][..]));
    }
}
