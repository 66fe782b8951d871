//! Multipart uploads that nobody ended: they take space, cost money, and no listing of objects shows them.

use object_store::path::Path;

use super::super::Leftover;
use crate::bucket::Bucket;

/// Below the bucket's prefix; none where the server is not asked: only Amazon's language has a call for it that we can sign. At most a thousand are
/// told, which is one answer (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html>).
pub(super) fn uploads(bucket: &Bucket) -> object_store::Result<Option<Vec<Leftover>>> {
    if !bucket.url().starts_with("s3://") {
        return Ok(None);
    }
    let prefix = bucket.prefix().to_string();
    let query = vec![("uploads".to_owned(), String::new()), ("prefix".to_owned(), prefix.clone())];
    let Some(answer) = bucket.ask(http::Method::GET, Path::default(), query)? else { return Ok(None) };
    Ok(Some(read(&String::from_utf8_lossy(&answer), &prefix)))
}

fn read(answer: &str, prefix: &str) -> Vec<Leftover> {
    let inside = |text: &'_ str, name: &str| -> Option<String> {
        let start = text.find(&format!("<{name}>"))? + name.len() + 2;
        let end = text[start..].find("</")?;
        Some(text[start..start + end].to_owned())
    };
    let uploads = answer.split("<Upload>").skip(1);
    let leftover = |upload: &str| {
        let key = inside(upload, "Key")?;
        let began = inside(upload, "Initiated").and_then(|at| at.parse::<jiff::Timestamp>().ok());
        let name = key.strip_prefix(prefix).unwrap_or(&key).trim_start_matches('/').to_owned();
        Some(Leftover { name, bytes: 0, modified: began.map_or(0, |at| at.as_second()) })
    };
    uploads.filter_map(leftover).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_upload_is_read_with_its_time() {
        let answer = "<?xml version=\"1.0\"?><ListMultipartUploadsResult><Prefix>p</Prefix><Upload><Key>p/i/ab</Key><UploadId>1</UploadId>\
            <Initiated>2026-01-02T03:04:05.000Z</Initiated></Upload><Upload><Key>p/d/cd</Key></Upload></ListMultipartUploadsResult>";
        let found = read(answer, "p");
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].name.as_str(), found[0].modified), ("i/ab", 1_767_323_045));
        assert_eq!((found[1].name.as_str(), found[1].modified), ("d/cd", 0));
        assert_eq!(read("<ListMultipartUploadsResult/>", ""), []);
    }
}
