//! How a cloud says no.

use axum::http::{HeaderMap, HeaderValue, StatusCode};

use super::shelf::now;
use super::wire::{Plain, escaped};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    SignatureDoesNotMatch,
    InvalidAccessKeyId,
    ExpiredToken,
    /// From a server whose clock shows three hours ago.
    RequestTimeTooSkewed,
    AccessDenied,
    /// 401, as GCS says it.
    AuthenticationRequired,
    /// 301 without a Location, and the region in which the bucket is.
    PermanentRedirect(&'static str),
    /// 400, and the region that the signature should have named.
    AuthorizationHeaderMalformed(&'static str),
    NoSuchBucket,
    NoSuchKey,
    NoSuchUpload,
    /// 403, as Ceph says it.
    QuotaExceeded,
    /// 507, as Swift and MinIO say it.
    InsufficientStorage,
    /// The object lies in an archive tier.
    InvalidObjectState,
    SlowDown,
    /// 429, as GCS says it.
    TooManyRequests,
    InternalError,
    ServiceUnavailable,
    PreconditionFailed,
    Conflict,
    InvalidRange,
    EntityTooSmall,
    InvalidPart,
    InvalidArgument(&'static str),
    NotImplemented(String),
}

impl Refusal {
    fn words(&self) -> (u16, &str, &str) {
        match self {
            Self::SignatureDoesNotMatch => (403, "SignatureDoesNotMatch", "the signature is not the one we calculated"),
            Self::InvalidAccessKeyId => (403, "InvalidAccessKeyId", "we have no such access key"),
            Self::ExpiredToken => (400, "ExpiredToken", "the token has expired"),
            Self::RequestTimeTooSkewed => {
                (403, "RequestTimeTooSkewed", "the request's time and ours are too far apart")
            }
            Self::AccessDenied => (403, "AccessDenied", "access denied"),
            Self::AuthenticationRequired => (401, "AuthenticationRequired", "authentication is required"),
            Self::PermanentRedirect(_) => (301, "PermanentRedirect", "the bucket is served by another endpoint"),
            Self::AuthorizationHeaderMalformed(_) => {
                (400, "AuthorizationHeaderMalformed", "the authorization header names the wrong region")
            }
            Self::NoSuchBucket => (404, "NoSuchBucket", "there is no such bucket"),
            Self::NoSuchKey => (404, "NoSuchKey", "there is no such key"),
            Self::NoSuchUpload => (404, "NoSuchUpload", "there is no such upload; it may have ended"),
            Self::QuotaExceeded => (403, "QuotaExceeded", "the quota is used up"),
            Self::InsufficientStorage => (507, "InsufficientStorage", "no space is left"),
            Self::InvalidObjectState => (403, "InvalidObjectState", "the object's storage class forbids this"),
            Self::SlowDown => (503, "SlowDown", "please ask less often"),
            Self::TooManyRequests => (429, "TooManyRequests", "please ask less often"),
            Self::InternalError => (500, "InternalError", "we met an internal error"),
            Self::ServiceUnavailable => (503, "ServiceUnavailable", "please try again"),
            Self::PreconditionFailed => (412, "PreconditionFailed", "a precondition did not hold"),
            Self::Conflict => (409, "ConditionalRequestConflict", "another request for this key is on its way"),
            Self::InvalidRange => (416, "InvalidRange", "the range lies outside"),
            Self::EntityTooSmall => (400, "EntityTooSmall", "a part is smaller than is allowed"),
            Self::InvalidPart => (400, "InvalidPart", "a part is not the one that was sent"),
            Self::InvalidArgument(what) => (400, "InvalidArgument", what),
            Self::NotImplemented(what) => (501, "NotImplemented", what),
        }
    }

    pub fn answer(&self, resource: &str) -> Plain {
        let (status, ..) = self.words();
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/xml"));
        if let Self::PermanentRedirect(region) | Self::AuthorizationHeaderMalformed(region) = self {
            headers.insert("x-amz-bucket-region", HeaderValue::from_static(region));
        }
        if *self == Self::RequestTimeTooSkewed {
            let date = (now() - chrono::TimeDelta::hours(3)).format("%a, %d %b %Y %H:%M:%S GMT");
            headers.insert("date", HeaderValue::from_str(&date.to_string()).unwrap());
        }
        Plain { status: StatusCode::from_u16(status).unwrap(), headers, body: self.xml(resource).into() }
    }

    pub fn xml(&self, resource: &str) -> String {
        let (_, code, message) = self.words();
        let region = match self {
            Self::AuthorizationHeaderMalformed(region) => format!("<Region>{region}</Region>"),
            _ => String::new(),
        };
        let (message, resource) = (escaped(message), escaped(resource));
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message>\
             <Resource>/{resource}</Resource>{region}<RequestId>LIFEBOATTEST</RequestId></Error>"
        )
    }
}
