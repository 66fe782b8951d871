//! What the answer of a cloud means, and what to do about it.
//!
//! Owns the reading of error answers: Amazon's, Google's and Azure's XML share one shape, `<Code>` and `<Message>`. The codes are documented at
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>, <https://cloud.google.com/storage/docs/xml-api/reference-status> and
//! <https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes>. Refuses to quote what a server says beyond its code and its
//! message: bodies can repeat what was sent.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use http::StatusCode;

/// Text of a server is cut after so many characters.
const SAID_MAX: usize = 300;
/// Clouds allow a quarter of an hour between their clock and ours.
const SKEW_SECONDS: u64 = 15 * 60;

/// What a refusal asks of its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Later, perhaps: the network, or a server's fault.
    Transient,
    /// Whether it took effect is unknown.
    Ambiguous,
    Denied,
    /// No space or quota left.
    Full,
    /// The object ends before what was asked for.
    Short,
    /// It will not work as it stands.
    Permanent,
}

/// An answer that is no success and no plain "not there" or "occupied", or no answer at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    NoBucket {
        bucket: String,
    },
    UnknownKey {
        said: String,
    },
    BadSignature {
        said: String,
    },
    Expired {
        said: String,
    },
    Denied {
        said: String,
    },
    WrongRegion {
        region: Option<String>,
    },
    /// The clocks differ by so much, where the server told its own.
    Clock {
        apart: Option<Duration>,
        ahead: bool,
    },
    Quota {
        said: String,
    },
    Archived {
        said: String,
    },
    /// Somebody else's request for the same key is under way, says the server.
    Conflict,
    Busy {
        status: u16,
        said: String,
    },
    /// Text where the store should have answered.
    WebPage {
        status: u16,
    },
    Range,
    /// A redirect elsewhere than to another region.
    Redirect {
        status: u16,
    },
    /// The cloud's metadata address, which nobody allowed to be asked.
    Metadata {
        host: String,
    },
    /// No request is made for a while: the last ones all failed.
    CircuitOpen {
        failures: u32,
        last: String,
    },
    /// No answer: the connection failed before the request was sent (`sent` is false), or after.
    NoAnswer {
        sent: bool,
        why: String,
    },
    Other {
        status: u16,
        said: String,
    },
}

impl Refusal {
    pub fn kind(&self) -> Kind {
        match self {
            Self::UnknownKey { .. }
            | Self::BadSignature { .. }
            | Self::Expired { .. }
            | Self::Denied { .. }
            | Self::Clock { .. }
            | Self::Metadata { .. } => Kind::Denied,
            Self::Quota { .. } => Kind::Full,
            Self::Conflict => Kind::Ambiguous,
            Self::CircuitOpen { .. } => Kind::Transient,
            // A server that says "busy" may have done the work all the same: a gateway speaks for it.
            Self::Busy { .. } => Kind::Ambiguous,
            Self::WebPage { status } if *status >= 500 => Kind::Ambiguous,
            Self::NoAnswer { sent: true, .. } => Kind::Ambiguous,
            Self::NoAnswer { sent: false, .. } => Kind::Transient,
            Self::Range => Kind::Short,
            Self::NoBucket { .. }
            | Self::WrongRegion { .. }
            | Self::Archived { .. }
            | Self::WebPage { .. }
            | Self::Redirect { .. }
            | Self::Other { .. } => Kind::Permanent,
        }
    }

    /// The next step, where there is one.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoBucket { .. } => {
                "make the bucket first, or correct its name; a server of your own goes into `endpoint` or AWS_ENDPOINT_URL"
            }
            Self::UnknownKey { .. } => "check the access key, and that it belongs to this server (`endpoint`)",
            Self::BadSignature { .. } => "check the secret key, and the region that the server expects",
            Self::Expired { .. } => "get new credentials; a session token is valid for hours only",
            Self::Denied { .. } => {
                "the policy of the bucket or of the key must allow listing, reading and creating below this prefix"
            }
            Self::WrongRegion { .. } => "set `region` or AWS_REGION to the region of the bucket",
            Self::Clock { .. } => "set this machine's clock (timedatectl, chronyc): requests are signed with the time",
            Self::Quota { .. } => "raise the quota, or forget snapshots and prune",
            Self::Archived { .. } => {
                "bring the object back from the archive first (the store's own restore request), or keep packs in a class that answers at once"
            }
            Self::Busy { .. } | Self::CircuitOpen { .. } => "try again later; what was stored so far is found again",
            Self::WebPage { .. } => {
                "check `endpoint` and the proxy settings (HTTPS_PROXY, NO_PROXY): a web server or proxy answered in place of the store"
            }
            Self::Redirect { .. } => "check `endpoint`: the server sends requests elsewhere",
            Self::Metadata { .. } => {
                "give credentials, or set `credentials = \"metadata\"` (LIFEBOAT_CLOUD_CREDENTIALS=metadata) to use the machine's own"
            }
            Self::NoAnswer { .. } => "check the network, `endpoint` and the name in it; run `lifeboat doctor`",
            Self::Conflict | Self::Range | Self::Other { .. } => return None,
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBucket { bucket } => write!(f, "there is no bucket {bucket}"),
            Self::UnknownKey { said } => write!(f, "the store does not know the access key{}", colon(said)),
            Self::BadSignature { said } => {
                write!(f, "the store does not accept the signature: the secret key is wrong{}", colon(said))
            }
            Self::Expired { said } => write!(f, "the credentials have expired{}", colon(said)),
            Self::Denied { said } => write!(f, "the store does not allow it{}", colon(said)),
            Self::WrongRegion { region: Some(region) } => write!(f, "the bucket is in the region {region}"),
            Self::WrongRegion { region: None } => write!(f, "the bucket is in another region"),
            Self::Clock { apart: Some(apart), ahead } => {
                let minutes = apart.as_secs() / 60;
                let way = if *ahead { "ahead of" } else { "behind" };
                write!(
                    f,
                    "this machine's clock is {} {way} the store's, which therefore refuses signatures",
                    long(minutes)
                )
            }
            Self::Clock { apart: None, .. } => {
                write!(f, "this machine's clock differs too much from the store's, which therefore refuses signatures")
            }
            Self::Quota { said } => write!(f, "the store has no space left for this account{}", colon(said)),
            Self::Archived { said } => {
                write!(f, "the object is in an archive and cannot be read at once{}", colon(said))
            }
            Self::Conflict => write!(f, "another request for the same key was under way"),
            Self::Busy { status, said } => write!(f, "the store is busy or broken (HTTP {status}){}", colon(said)),
            Self::WebPage { status } => write!(f, "a web page came back instead of the store's answer (HTTP {status})"),
            Self::Range => write!(f, "the object ends before the range that was asked for"),
            Self::Redirect { status } => write!(f, "the store redirects elsewhere (HTTP {status})"),
            Self::Metadata { host } => {
                write!(f, "there are no credentials, and the machine's own ({host}) are taken only when asked for")
            }
            Self::CircuitOpen { failures, last } => {
                write!(
                    f,
                    "the last {failures} requests failed, so the store is left alone for a while; the last one: {last}"
                )
            }
            Self::NoAnswer { why, .. } => write!(f, "no answer: {why}"),
            Self::Other { status, said } => write!(f, "the store answered HTTP {status}{}", colon(said)),
        }
    }
}

impl Error for Refusal {}

fn colon(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(" ({said})") }
}

fn long(minutes: u64) -> String {
    match minutes {
        0..=119 => format!("{minutes} minutes"),
        120..=2879 => format!("{} hours", minutes / 60),
        _ => format!("{} days", minutes / 1440),
    }
}

/// What is known of an error answer.
pub(super) struct Answer<'a> {
    pub status: StatusCode,
    /// The start of its body.
    pub body: &'a str,
    /// `Content-Type` says that it is a page for people.
    pub is_page: bool,
    /// `x-amz-bucket-region`.
    pub region: Option<&'a str>,
    /// Seconds that this machine's clock is ahead of the answer's `Date`.
    pub ahead: Option<i64>,
    /// `x-ms-error-code`, which stands where a HEAD has no body.
    pub code: Option<&'a str>,
    pub bucket: &'a str,
    pub is_put: bool,
}

/// The meaning of an error answer; none for those that `object_store` tells apart itself: not found, occupied, not modified.
pub(super) fn read(answer: &Answer<'_>) -> Option<Refusal> {
    let status = answer.status.as_u16();
    let code = element(answer.body, "Code").or(answer.code).unwrap_or_default();
    let message = element(answer.body, "Message").unwrap_or_default();
    let said = clean(&match (code, message.lines().next().unwrap_or_default()) {
        ("", message) => message.to_owned(),
        (code, "") => code.to_owned(),
        (code, message) => format!("{code}: {message}"),
    });
    let far = answer.ahead.filter(|seconds| seconds.unsigned_abs() >= SKEW_SECONDS);
    let clock = || Refusal::Clock {
        apart: far.map(|seconds| Duration::from_secs(seconds.unsigned_abs())),
        ahead: far.is_some_and(|seconds| seconds > 0),
    };
    let region = || element(answer.body, "Region").or(answer.region).map(clean);
    Some(match code {
        "NoSuchBucket" | "ContainerNotFound" | "InvalidBucketName" | "ContainerBeingDeleted" => {
            Refusal::NoBucket { bucket: answer.bucket.to_owned() }
        }
        "RequestTimeTooSkewed" | "RequestExpired" => clock(),
        // Azure and Google answer so to a request from another day.
        "AuthenticationFailed" | "AccessDenied" | "InvalidAuthenticationInfo" | "SignatureDoesNotMatch"
            if far.is_some() =>
        {
            clock()
        }
        "InvalidAccessKeyId" | "InvalidAuthenticationInfo" => Refusal::UnknownKey { said },
        "SignatureDoesNotMatch" | "AuthenticationFailed" => Refusal::BadSignature { said },
        "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken" => Refusal::Expired { said },
        "AuthorizationHeaderMalformed"
        | "PermanentRedirect"
        | "IllegalLocationConstraintException"
        | "TemporaryRedirect" => Refusal::WrongRegion { region: region() },
        "QuotaExceeded"
        | "XMinioStorageFull"
        | "InsufficientStorage"
        | "AccountIsDisabled"
        | "TooManyBuckets"
        | "StorageQuotaExceeded" => Refusal::Quota { said },
        "InvalidObjectState" | "BlobArchived" | "BlobBeingRehydrated" => Refusal::Archived { said },
        "SlowDown" | "ServerBusy" | "OperationTimedOut" | "InternalError" | "ServiceUnavailable" | "RequestTimeout" => {
            Refusal::Busy { status, said }
        }
        "InvalidRange" => Refusal::Range,
        _ if answer.is_page => Refusal::WebPage { status },
        _ => match status {
            // A conditional create that lost answers so, too; `create_once` looks which.
            409 if answer.is_put && !matches!(code, "BlobAlreadyExists") => Refusal::Conflict,
            304 | 404 | 409 | 412 => return None,
            301 | 302 | 307 | 308 if answer.region.is_some() => Refusal::WrongRegion { region: region() },
            300..=399 => Refusal::Redirect { status },
            401 => Refusal::UnknownKey { said },
            403 if far.is_some() => clock(),
            403 => Refusal::Denied { said },
            408 | 425 | 429 => Refusal::Busy { status, said },
            413 | 507 => Refusal::Quota { said },
            416 => Refusal::Range,
            501 => Refusal::Other { status, said }, // it will never do that
            500..=599 => Refusal::Busy { status, said },
            _ => Refusal::Other { status, said },
        },
    })
}

/// The text of the first element of that name, without any markup inside.
fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let start = body.find(&open)? + open.len();
    let len = body[start..].find(&close)?;
    Some(body[start..start + len].trim()).filter(|text| !text.is_empty() && !text.contains('<'))
}

/// A server's words on one line, shortened, without control characters.
fn clean(text: &str) -> String {
    let printable: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if printable.chars().count() <= SAID_MAX {
        printable
    } else {
        printable.chars().take(SAID_MAX).chain(['…']).collect()
    }
}

/// The refusal in the chain of an error, if there is one.
pub fn of<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Refusal> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return Some(refusal);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Option<Refusal> {
        read(&Answer {
            status: StatusCode::from_u16(status).unwrap(),
            body,
            is_page: body.starts_with("<html"),
            region: None,
            ahead: None,
            code: None,
            bucket: "backup",
            is_put: true,
        })
    }

    fn error(code: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>Because.</Message><Region>eu-west-1</Region></Error>"
        )
    }

    #[test]
    fn each_code_has_its_sentence() {
        for (status, code, says) in [
            (404, "NoSuchBucket", "there is no bucket backup"),
            (403, "InvalidAccessKeyId", "does not know the access key (InvalidAccessKeyId: Because.)"),
            (403, "SignatureDoesNotMatch", "the secret key is wrong"),
            (400, "ExpiredToken", "the credentials have expired"),
            (403, "AccessDenied", "does not allow it"),
            (400, "AuthorizationHeaderMalformed", "in the region eu-west-1"),
            (403, "RequestTimeTooSkewed", "clock differs"),
            (403, "QuotaExceeded", "no space left"),
            (503, "SlowDown", "busy or broken (HTTP 503)"),
        ] {
            let refusal = answer(status, &error(code)).unwrap();
            assert!(refusal.to_string().contains(says), "{code}: {refusal}");
            assert!(refusal.hint().is_some(), "{code}");
        }
    }

    #[test]
    fn what_is_absent_or_occupied_is_left_to_the_client() {
        for status in [304, 404, 412] {
            assert_eq!(answer(status, &error("NoSuchKey")), None, "{status}");
        }
        assert_eq!(answer(409, &error("ConditionalRequestConflict")), Some(Refusal::Conflict));
    }

    #[test]
    fn a_clock_off_by_a_day_is_told_with_its_distance() {
        let body = error("AccessDenied");
        let seen = Answer {
            status: StatusCode::FORBIDDEN,
            body: &body,
            is_page: false,
            region: None,
            ahead: Some(-86_400),
            code: None,
            bucket: "b",
            is_put: false,
        };
        let refusal = read(&seen).unwrap();
        assert!(refusal.to_string().contains("clock is 24 hours behind the store's"), "{refusal}");
    }

    #[test]
    fn a_page_of_a_proxy_is_called_one() {
        assert_eq!(answer(502, "<html><body>Bad Gateway"), Some(Refusal::WebPage { status: 502 }));
        assert_eq!(answer(404, "<html>"), Some(Refusal::WebPage { status: 404 }));
    }

    #[test]
    fn a_servers_words_stay_short_and_on_one_line() {
        let body = format!("<Error><Code>Weird</Code><Message>a\u{7}b{}</Message></Error>", "x".repeat(1000));
        let text = answer(418, &body).unwrap().to_string();
        assert!(text.chars().count() < 400 && !text.contains('\u{7}'), "{text}");
    }
}
