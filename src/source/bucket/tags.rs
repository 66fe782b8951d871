//! The tags of objects, which neither a listing nor an object's own bytes come with.
//!
//! Owns the question and the reading of its answer (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObjectTagging.html>). S3 alone is asked: Google's clouds have
//! no tags of objects, and our client signs no such request for Azure. A change of tags changes nothing that a listing shows, so they are as of the time when the object was saved.

use object_store::path::Path;

use super::patiently;
use crate::bucket::{Bucket, key, unescaped};
use crate::source::problem::SourceError;

/// Sorted by name.
pub type Tags = Vec<(String, String)>;

/// Whether tags can be asked for there.
pub fn has_tags(bucket: &Bucket) -> bool {
    bucket.url().starts_with("s3://") && bucket.signs()
}

/// Refuses a bucket whose tags cannot be asked for.
pub fn need_tags(bucket: &Bucket) -> Result<(), SourceError> {
    if has_tags(bucket) { Ok(()) } else { Err(SourceError::NoTags { bucket: bucket.url().to_owned() }) }
}

/// The tags that the object has now.
pub async fn tags(bucket: &Bucket, at: &Path) -> object_store::Result<Tags> {
    let unknown = |why: &str| object_store::Error::NotSupported { source: why.to_owned().into() };
    if key::from_path(at.as_ref()) != at.as_ref() {
        return Err(unknown("tags cannot be asked for under a key with empty parts, dots or control characters"));
    }
    let query = || vec![("tagging".to_owned(), String::new())];
    let answer = patiently(|| bucket.ask_async(http::Method::GET, at, query())).await?;
    let answer = answer.ok_or_else(|| unknown("this kind of cloud is not asked for tags"))?;
    let text = std::str::from_utf8(&answer).ok();
    text.and_then(read).ok_or_else(|| unknown("the answer to a question for tags makes no sense"))
}

fn read(answer: &str) -> Option<Tags> {
    let set = answer.find("<TagSet")?;
    let inside = |text: &str, open: &str, close: &str| {
        let start = text.find(open)? + open.len();
        let end = text[start..].find(close)?;
        unescaped(&text[start..start + end])
    };
    let mut tags = Vec::new();
    for tag in answer[set..].split("<Tag>").skip(1) {
        let value = if tag.contains("<Value/>") { String::new() } else { inside(tag, "<Value>", "</Value>")? };
        tags.push((inside(tag, "<Key>", "</Key>")?, value));
    }
    tags.sort();
    Some(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_with_its_escapes_and_nonsense_is_none() {
        let answer = "<?xml version=\"1.0\"?><Tagging xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><TagSet><Tag><Key>team</Key>\
            <Value>a &amp; b</Value></Tag><Tag><Key>empty</Key><Value/></Tag></TagSet></Tagging>";
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read(answer), Some(vec![pair("empty", ""), pair("team", "a & b")]));
        assert_eq!(read("<Tagging><TagSet/></Tagging>"), Some(vec![]));
        assert_eq!(read("<html>welcome</html>"), None);
        assert_eq!(read("<TagSet><Tag><Key>a</Key></Tag></TagSet>"), None);
    }
}
