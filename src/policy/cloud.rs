//! The settings of a bucket, a repository's or a source's, from text to proof.
//!
//! Refuses to look at the environment, which has a say later, and to judge what only the cloud can know: regions, classes, accounts.

use super::document::{Given, StoreDoc};
use super::found::{Found, Spot, Typed};
use super::model::StoreSettings;
use super::values;
use crate::units::ByteCount;

const CONNECTIONS_MAX: i64 = 1024;
const WORD_BYTES_MAX: usize = 64;

/// Why settings are out of place.
#[derive(Clone, Copy)]
pub(super) enum Misplaced {
    /// Beside the repository of a directory.
    Repository,
    /// Beside the path of a file or directory, which may stand beside a bucket.
    Source,
}

pub(super) fn settings(doc: StoreDoc, misplaced: Option<Misplaced>, found: &mut Found) -> StoreSettings {
    if let Some(misplaced) = misplaced {
        let (what, hint) = match misplaced {
            Misplaced::Repository => (
                "this repository is a directory",
                "remove it, or give the bucket as `url`: s3://bucket/prefix, gs://… or az://…",
            ),
            Misplaced::Source => {
                ("this source names a directory or file", "remove it, or save what is no bucket by a policy of its own")
            }
        };
        for (key, spot) in given(&doc) {
            found.add("E123", &spot, format!("`{key}` belongs to a bucket, and {what}")).hint(hint);
        }
    }
    let mut settings = StoreSettings {
        endpoint: doc.endpoint.is().and_then(|text| endpoint(&text, found)),
        region: doc.region.is().and_then(|text| word("region", "a region, such as eu-central-1", &text, found)),
        path_style: doc.path_style.is().map(|flag| flag.value),
        ca_file: doc.ca_file.is().and_then(|text| values::absolute_path(&text, "`ca_file`", found)),
        allow_http: doc.allow_http.is().is_some_and(|flag| flag.value),
        metadata_credentials: doc.credentials.is().is_some_and(|text| credentials(&text, found)),
        account: doc.account.is().and_then(|text| word("account", "the name of a storage account", &text, found)),
        secrets: Vec::new(),
        storage_class: doc.storage_class.is().and_then(|text| word("storage_class", CLASS, &text, found)),
        metadata_storage_class: doc
            .metadata_storage_class
            .is()
            .and_then(|text| word("metadata_storage_class", CLASS, &text, found)),
        connections: doc.connections.is().and_then(|number| connections(&number, found)),
        upload_rate: doc.upload_rate.is().and_then(|text| rate("upload_rate", &text, found)),
        download_rate: doc.download_rate.is().and_then(|text| rate("download_rate", &text, found)),
    };
    for (key, variable, text) in doc.secrets {
        let secret = text.is().and_then(|text| values::secret(&text, key, found));
        settings.secrets.extend(secret.map(|secret| (variable, secret)));
    }
    settings
}

const CLASS: &str = "a class of storage by the cloud's own name, such as STANDARD_IA";

/// Every key that was written, and where.
fn given(doc: &StoreDoc) -> Vec<(&'static str, Spot)> {
    let texts = [
        ("endpoint", &doc.endpoint),
        ("region", &doc.region),
        ("ca_file", &doc.ca_file),
        ("credentials", &doc.credentials),
        ("account", &doc.account),
        ("storage_class", &doc.storage_class),
        ("metadata_storage_class", &doc.metadata_storage_class),
        ("upload_rate", &doc.upload_rate),
        ("download_rate", &doc.download_rate),
    ];
    let secrets = doc.secrets.iter().map(|(key, _, text)| (*key, text));
    let flags = [("path_style", &doc.path_style), ("allow_http", &doc.allow_http)];
    let spots = texts.into_iter().chain(secrets).filter_map(|(key, text)| Some((key, spot(text)?)));
    let spots = spots.chain(flags.into_iter().filter_map(|(key, flag)| Some((key, spot(flag)?))));
    spots.chain(spot(&doc.connections).map(|spot| ("connections", spot))).collect()
}

fn spot<T>(given: &Given<Typed<T>>) -> Option<Spot> {
    match given {
        Given::Is(typed) => Some(typed.spot.clone()),
        Given::Absent | Given::Broken => None,
    }
}

fn endpoint(text: &Typed<String>, found: &mut Found) -> Option<String> {
    let server = ["https://", "http://"].iter().find_map(|scheme| text.value.strip_prefix(scheme));
    let good = server.is_some_and(|server| {
        !server.is_empty() && !server.contains(['@', '?', '#', ' ']) && !server.chars().any(char::is_control)
    });
    if !good {
        found
            .add("E118", &text.spot, format!("\"{}\" is no URL of a server", values::shown(&text.value)))
            .hint("write https://s3.example.org; credentials stand in keys of their own");
        return None;
    }
    Some(text.value.clone())
}

/// What goes into a header or a host name.
fn word(key: &str, what: &str, text: &Typed<String>, found: &mut Found) -> Option<String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !(1..=WORD_BYTES_MAX).contains(&text.value.len()) || !text.value.bytes().all(good) {
        found.add("E115", &text.spot, format!("`{key}` is {what}, and not \"{}\"", values::shown(&text.value)));
        return None;
    }
    Some(text.value.clone())
}

fn credentials(text: &Typed<String>, found: &mut Found) -> bool {
    match text.value.as_str() {
        "metadata" => true,
        "environment" => false,
        _ => {
            found
                .add("E115", &text.spot, "`credentials` is \"environment\" or \"metadata\"")
                .hint("\"metadata\" asks the cloud for the machine's own; keys are given as `access_key_id` and so on");
            false
        }
    }
}

fn connections(number: &Typed<i64>, found: &mut Found) -> Option<u32> {
    if !(1..=CONNECTIONS_MAX).contains(&number.value) {
        found.add("E115", &number.spot, format!("`connections` is a number from 1 to {CONNECTIONS_MAX}"));
        return None;
    }
    u32::try_from(number.value).ok()
}

fn rate(key: &str, text: &Typed<String>, found: &mut Found) -> Option<ByteCount> {
    let typed = text.value.trim_end_matches("/s");
    match typed.parse::<ByteCount>() {
        Ok(rate) if rate.0 > 0 => Some(rate),
        _ => {
            found
                .add("E115", &text.spot, format!("`{key}` is a number of bytes per second, such as \"20 MiB/s\""))
                .hint("leave it out for no limit");
            None
        }
    }
}
