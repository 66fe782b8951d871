//! What each verb does to the shelf.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode};

use super::refusal::Refusal;
use super::script::{Fault, Verb};
use super::shelf::{Object, Part, Question, Upload, etag, kept, now};
use super::wire::{Header, Plain, elements, empty, escaped, header, listing, span, unsealed, xml};
use super::{BUCKET, Conditions, Dialect, State};
use crate::support::loopback::Asked;

/// Of every part of an upload but the last.
const PART_BYTES_MIN: usize = 5 << 20;

type Answered = Result<Plain, Refusal>;

/// What the headers of a dialect begin with.
pub fn family(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::S3 => "x-amz-",
        Dialect::Gcs => "x-goog-",
    }
}

#[derive(PartialEq)]
pub enum Condition {
    None,
    Vacant,
    /// The ETag or the generation that stands there.
    Is(String),
}

pub fn condition(dialect: Dialect, asked: &Asked) -> Result<Condition, Refusal> {
    if dialect == Dialect::Gcs {
        return Ok(match asked.header("x-goog-if-generation-match") {
            None => Condition::None,
            Some("0") => Condition::Vacant,
            Some(generation) => Condition::Is(generation.to_owned()),
        });
    }
    match (asked.header("if-none-match"), asked.header("if-match")) {
        (None, None) => Ok(Condition::None),
        (Some("*"), None) => Ok(Condition::Vacant),
        (None, Some(etag)) => Ok(Condition::Is(etag.to_owned())),
        _ => Err(Refusal::NotImplemented("this condition of a write".into())),
    }
}

/// One request at the shelf.
pub struct Call<'a> {
    pub dialect: Dialect,
    pub state: &'a mut State,
    pub asked: &'a Asked,
    pub key: &'a str,
    pub fault: Option<Fault>,
    /// What the write saw when it looked, where that counts instead of what stands there now.
    pub vacant: Option<bool>,
    /// A fault changed what was done.
    pub bent: bool,
}

impl Call<'_> {
    pub fn run(&mut self, verb: Verb) -> Answered {
        match verb {
            Verb::Get | Verb::Head => self.get(verb),
            Verb::Put => self.put(),
            Verb::Copy => self.copy(),
            Verb::Delete => self.delete(),
            Verb::BulkDelete => self.bulk_delete(),
            Verb::List => self.list(),
            Verb::Begin => self.begin(),
            Verb::Part => self.part(),
            Verb::Complete => self.complete(),
            Verb::Abort => self.abort(),
            Verb::ListUploads => self.list_uploads(),
            Verb::Tags => self.tags(),
            Verb::HeadBucket => Ok(empty(200)),
            Verb::Write | Verb::Any => unreachable!("no request is of several verbs"),
        }
    }

    fn object(&self) -> Result<&Object, Refusal> {
        self.state.shelf.objects.get(self.key).ok_or(Refusal::NoSuchKey)
    }

    fn get(&mut self, verb: Verb) -> Answered {
        let object = self.object()?.clone();
        let length = object.bytes.len() as u64;
        if self.asked.header("if-match").is_some_and(|etag| etag != object.etag) {
            return Err(Refusal::PreconditionFailed);
        }
        let mut plain = empty(200);
        self.describe(&mut plain.headers, &object);
        if self.asked.header("if-none-match").is_some_and(|etag| etag == object.etag) {
            plain.status = StatusCode::NOT_MODIFIED;
            return Ok(plain);
        }
        let mut range = None;
        if let Some(header) = self.asked.header("range") {
            range = Some(span(header, length).ok_or(Refusal::InvalidRange)?);
            if self.fault == Some(Fault::IgnoredRange) {
                self.bent = true;
                range = None;
            }
        }
        let (start, end) = range.unwrap_or((0, length));
        if range.is_some() {
            plain.status = StatusCode::PARTIAL_CONTENT;
            header(&mut plain.headers, "content-range", &format!("bytes {start}-{}/{length}", end - 1));
        }
        header(&mut plain.headers, "content-length", &(end - start).to_string());
        if verb == Verb::Get {
            plain.body = object.bytes.slice(start as usize..end as usize);
        }
        Ok(plain)
    }

    fn describe(&self, headers: &mut HeaderMap, object: &Object) {
        headers.extend(object.headers.iter().cloned());
        header(headers, "accept-ranges", "bytes");
        header(headers, "etag", &object.etag);
        header(headers, "last-modified", &object.modified.format("%a, %d %b %Y %H:%M:%S GMT").to_string());
        match self.dialect {
            Dialect::S3 if !object.tags.is_empty() => {
                header(headers, "x-amz-tagging-count", &object.tags.len().to_string());
            }
            Dialect::S3 => {}
            Dialect::Gcs => header(headers, "x-goog-generation", &object.generation.to_string()),
        }
    }

    /// Whether the write may be done, by its conditions.
    fn may_write(&mut self) -> Result<(), Refusal> {
        let stands = self.state.shelf.objects.get(self.key);
        let condition = condition(self.dialect, self.asked)?;
        if condition != Condition::None && self.state.manners.conditions == Conditions::NotImplemented {
            return Err(Refusal::NotImplemented("conditional writes".into()));
        }
        let failed = match condition {
            Condition::None => None,
            Condition::Vacant => {
                let vacant = self.vacant.unwrap_or(stands.is_none());
                (!vacant).then_some(Refusal::PreconditionFailed)
            }
            Condition::Is(wanted) => match (stands, self.dialect) {
                (None, Dialect::S3) => Some(Refusal::NoSuchKey),
                (None, Dialect::Gcs) => Some(Refusal::PreconditionFailed),
                (Some(object), Dialect::S3) => (object.etag != wanted).then_some(Refusal::PreconditionFailed),
                (Some(object), Dialect::Gcs) => {
                    (object.generation.to_string() != wanted).then_some(Refusal::PreconditionFailed)
                }
            },
        };
        match failed {
            Some(_) if self.state.manners.conditions == Conditions::Ignored => Ok(()),
            Some(_) if self.fault == Some(Fault::IgnoredCondition) => {
                self.bent = true;
                Ok(())
            }
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    }

    fn store(&mut self, bytes: Bytes, headers: Vec<Header>, tags: BTreeMap<String, String>) -> Answered {
        let generation_named = self.dialect == Dialect::Gcs;
        let object = self.state.shelf.put(self.key, bytes, headers, tags);
        let mut plain = empty(200);
        header(&mut plain.headers, "etag", &object.etag);
        if generation_named {
            header(&mut plain.headers, "x-goog-generation", &object.generation.to_string());
        }
        Ok(plain)
    }

    fn put(&mut self) -> Answered {
        self.may_write()?;
        let (headers, tags) = self.said()?;
        self.store(self.asked.body.clone(), headers, tags)
    }

    /// The headers that stay with the object, and its tags.
    fn said(&self) -> Result<(Vec<Header>, BTreeMap<String, String>), Refusal> {
        let mut tags = BTreeMap::new();
        let header = self.asked.header("x-amz-tagging").unwrap_or("");
        for pair in header.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or(Refusal::InvalidArgument("a tag without a value"))?;
            tags.insert(name.to_owned(), value.to_owned());
        }
        Ok((kept(&self.asked.headers, family(self.dialect)), tags))
    }

    fn copy(&mut self) -> Answered {
        self.may_write()?;
        let source = self.asked.header(&(family(self.dialect).to_owned() + "copy-source")).unwrap_or("");
        let source = source.trim_start_matches('/').strip_prefix(BUCKET).and_then(|rest| rest.strip_prefix('/'));
        let source = source.ok_or(Refusal::NoSuchBucket)?.replace("%2F", "/");
        let object = self.state.shelf.objects.get(&source).ok_or(Refusal::NoSuchKey)?.clone();
        let mut plain = self.store(object.bytes, object.headers, object.tags)?;
        plain.body = format!("<CopyObjectResult><ETag>{}</ETag></CopyObjectResult>", object.etag).into();
        Ok(plain)
    }

    fn delete(&mut self) -> Answered {
        let gone = self.state.shelf.objects.remove(self.key).is_none();
        if gone && self.dialect == Dialect::Gcs { Err(Refusal::NoSuchKey) } else { Ok(empty(204)) }
    }

    fn bulk_delete(&mut self) -> Answered {
        let text = String::from_utf8_lossy(&self.asked.body);
        let keys = elements(&text, "Key");
        if keys.is_empty() || keys.len() > 1000 {
            return Err(Refusal::InvalidArgument("between one and a thousand keys are deleted at once"));
        }
        let mut body = String::from("<DeleteResult>");
        for key in keys {
            self.state.shelf.objects.remove(&key);
            body += &format!("<Deleted><Key>{}</Key></Deleted>", escaped(&key));
        }
        Ok(xml(body + "</DeleteResult>"))
    }

    fn list(&mut self) -> Answered {
        let token = self.asked.query("continuation-token");
        if token.is_none() {
            self.state.shelf.count_list();
        }
        let after = match token {
            Some(token) => unsealed(token).ok_or(Refusal::InvalidArgument("a continuation token that is not ours"))?,
            None => self.asked.query("start-after").unwrap_or("").to_owned(),
        };
        let wanted = self.asked.query("max-keys").map_or(Ok(1000), str::parse);
        let most = wanted.map_err(|_| Refusal::InvalidArgument("max-keys is a number"))?;
        let question = Question {
            prefix: self.asked.query("prefix").unwrap_or(""),
            delimiter: self.asked.query("delimiter"),
            after: &after,
            most: self.state.manners.page_keys.min(most),
            lists_until_shown: self.state.manners.lists_until_shown,
        };
        let mut page = self.state.shelf.page(&question);
        if self.fault == Some(Fault::ShortListing) {
            self.bent = page.objects.pop().is_some();
        }
        Ok(xml(listing(&page, question.prefix)))
    }

    fn begin(&mut self) -> Answered {
        let (headers, tags) = self.said()?;
        let upload = Upload { key: self.key.to_owned(), headers, tags, begun: now(), parts: BTreeMap::new() };
        let id = self.state.shelf.begin(upload);
        let key = escaped(self.key);
        Ok(xml(format!(
            "<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{key}</Key><UploadId>{id}</UploadId>\
             </InitiateMultipartUploadResult>"
        )))
    }

    fn upload(&mut self) -> Result<&mut Upload, Refusal> {
        let id = self.asked.query("uploadId").unwrap_or("");
        let upload = self.state.shelf.uploads.get_mut(id).filter(|upload| upload.key == self.key);
        upload.ok_or(Refusal::NoSuchUpload)
    }

    fn part(&mut self) -> Answered {
        let number: u32 = self.asked.query("partNumber").and_then(|number| number.parse().ok()).unwrap_or(0);
        if !(1..=10_000).contains(&number) {
            return Err(Refusal::InvalidArgument("parts are numbered from 1 to 10000"));
        }
        let bytes = self.asked.body.clone();
        let etag = etag(&bytes);
        let mut plain = empty(200);
        header(&mut plain.headers, "etag", &etag);
        self.upload()?.parts.insert(number, Part { bytes, etag });
        Ok(plain)
    }

    fn complete(&mut self) -> Answered {
        self.upload()?;
        self.may_write()?;
        let text = String::from_utf8_lossy(&self.asked.body).into_owned();
        let numbers = elements(&text, "PartNumber");
        let etags = elements(&text, "ETag");
        let upload = self.upload()?;
        if numbers.is_empty() || numbers.len() != etags.len() {
            return Err(Refusal::InvalidArgument("an upload has parts, and each of them an ETag"));
        }
        let mut whole = Vec::new();
        for (at, (number, etag)) in numbers.iter().zip(&etags).enumerate() {
            let part = number.parse().ok().filter(|number| *number == at as u32 + 1);
            let part = part.and_then(|number| upload.parts.get(&number)).filter(|part| part.etag == *etag);
            let part = part.ok_or(Refusal::InvalidPart)?;
            if part.bytes.len() < PART_BYTES_MIN && at + 1 < numbers.len() {
                return Err(Refusal::EntityTooSmall);
            }
            whole.extend_from_slice(&part.bytes);
        }
        let (headers, tags) = (upload.headers.clone(), upload.tags.clone());
        self.abort()?;
        let mut plain = self.store(whole.into(), headers, tags)?;
        let etag = plain.headers["etag"].to_str().unwrap_or("").to_owned();
        let key = escaped(self.key);
        plain.body = format!(
            "<CompleteMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{key}</Key><ETag>{}</ETag>\
             </CompleteMultipartUploadResult>",
            escaped(&etag)
        )
        .into();
        Ok(plain)
    }

    fn abort(&mut self) -> Answered {
        self.upload()?;
        self.state.shelf.uploads.remove(self.asked.query("uploadId").unwrap_or(""));
        Ok(empty(204))
    }

    fn list_uploads(&mut self) -> Answered {
        let prefix = self.asked.query("prefix").unwrap_or("");
        let uploads = self.state.shelf.uploads.iter().filter(|(_, upload)| upload.key.starts_with(prefix));
        let mut body = format!("<ListMultipartUploadsResult><Bucket>{BUCKET}</Bucket><IsTruncated>false</IsTruncated>");
        for (id, upload) in uploads {
            let begun = upload.begun.format("%Y-%m-%dT%H:%M:%S%.3fZ");
            let key = escaped(&upload.key);
            body +=
                &format!("<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{begun}</Initiated></Upload>");
        }
        Ok(xml(body + "</ListMultipartUploadsResult>"))
    }

    fn tags(&mut self) -> Answered {
        self.object()?;
        let text = String::from_utf8_lossy(&self.asked.body).into_owned();
        let object = self.state.shelf.objects.get_mut(self.key).ok_or(Refusal::NoSuchKey)?;
        match self.asked.method {
            Method::PUT => {
                object.tags = elements(&text, "Key").into_iter().zip(elements(&text, "Value")).collect();
                Ok(empty(200))
            }
            Method::DELETE => {
                object.tags.clear();
                Ok(empty(204))
            }
            _ => {
                let tags = object.tags.iter();
                let tags = tags.map(|(name, value)| {
                    format!("<Tag><Key>{}</Key><Value>{}</Value></Tag>", escaped(name), escaped(value))
                });
                Ok(xml(format!("<Tagging><TagSet>{}</TagSet></Tagging>", tags.collect::<String>())))
            }
        }
    }
}
