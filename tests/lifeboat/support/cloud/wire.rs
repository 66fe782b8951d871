//! Answers as they stand on the line: headers, ranges, XML.

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::BUCKET;
use super::shelf::Page;

/// An answer before faults have bent it.
pub struct Plain {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

pub type Header = (HeaderName, HeaderValue);

pub fn empty(status: u16) -> Plain {
    let status = StatusCode::from_u16(status).unwrap();
    Plain { status, headers: HeaderMap::new(), body: Bytes::new() }
}

pub fn xml(body: String) -> Plain {
    let mut plain = empty(200);
    header(&mut plain.headers, "content-type", "application/xml");
    plain.body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{body}").into();
    plain
}

pub fn header(headers: &mut HeaderMap, name: &'static str, value: &str) {
    headers.insert(name, HeaderValue::from_str(value).unwrap());
}

/// The bytes that a Range header asks of an object of this length; none where it lies outside.
pub fn span(header: &str, length: u64) -> Option<(u64, u64)> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let (start, end) = match (first, last) {
        ("", suffix) => (length.saturating_sub(suffix.parse().ok()?), length),
        (first, "") => (first.parse().ok()?, length),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.saturating_add(1).min(length)),
    };
    (start < end).then_some((start, end))
}

pub fn listing(page: &Page, prefix: &str) -> String {
    let mut body = String::from("<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    body += &format!("<Name>{BUCKET}</Name><Prefix>{}</Prefix>", escaped(prefix));
    body += &format!("<KeyCount>{}</KeyCount>", page.objects.len() + page.folders.len());
    body += &format!("<IsTruncated>{}</IsTruncated>", page.next.is_some());
    if let Some(next) = &page.next {
        body += &format!("<NextContinuationToken>{}</NextContinuationToken>", sealed(next));
    }
    for (key, object) in &page.objects {
        let modified = object.modified.format("%Y-%m-%dT%H:%M:%S%.3fZ");
        let (key, etag, size) = (escaped(key), escaped(&object.etag), object.bytes.len());
        body += &format!(
            "<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><ETag>{etag}</ETag>\
             <Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        );
    }
    for folder in &page.folders {
        body += &format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escaped(folder));
    }
    body + "</ListBucketResult>"
}

/// A name as a continuation token: nothing that a client could make itself.
fn sealed(name: &str) -> String {
    format!("next+{}=", lifeboat::names::hex(name.as_bytes()))
}

pub fn unsealed(token: &str) -> Option<String> {
    let digits = token.strip_prefix("next+")?.strip_suffix('=')?;
    let pairs = (0..digits.len() / 2).map(|at| u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok());
    String::from_utf8(pairs.collect::<Option<Vec<u8>>>()?).ok()
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The texts of all elements of this name.
pub fn elements(text: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let pieces = text.split(open.as_str()).skip(1).filter_map(|piece| piece.split_once(close.as_str()));
    let plain = |text: &str| {
        text.replace("&quot;", "\"")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&apos;", "'")
            .replace("&amp;", "&")
    };
    pieces.map(|(text, _)| plain(text)).collect()
}
