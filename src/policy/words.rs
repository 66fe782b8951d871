//! The words of the configuration, and what people may have meant by others.
//!
//! Owns which keys hold secrets and which may be seen. Refuses to say where a key belongs: that is `document`'s matter.

/// Keys whose values are references to secrets, or the secret itself by mistake.
pub(super) const SECRET_KEYS: [&str; 9] = [
    "key",
    "read_key",
    "admin_key",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "account_key",
    "sas_token",
    "service_account",
];

/// Credentials of clouds, and the variables that hold them where the environment does.
pub(super) const CREDENTIALS: [(&str, &str); 6] = [
    ("access_key_id", "AWS_ACCESS_KEY_ID"),
    ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("session_token", "AWS_SESSION_TOKEN"),
    ("account_key", "AZURE_STORAGE_ACCOUNT_KEY"),
    ("sas_token", "AZURE_STORAGE_SAS_TOKEN"),
    ("service_account", "GOOGLE_SERVICE_ACCOUNT_KEY"),
];

/// Every other key of every table.
const PUBLIC_KEYS: &[&str] = &[
    "schema",
    "daemon",
    "defaults",
    "repository",
    "policy",
    "listen",
    "state",
    "cache",
    "socket",
    "open_status",
    "hosts",
    "endpoint",
    "region",
    "path_style",
    "ca_file",
    "allow_http",
    "credentials",
    "account",
    "storage_class",
    "metadata_storage_class",
    "connections",
    "upload_rate",
    "download_rate",
    "url",
    "source",
    "repo",
    "schedule",
    "timezone",
    "keep",
    "tags",
    "accept_partial",
    "compression",
    "allow_unreadable",
    "drill",
    "files",
    "paths",
    "exclude",
    "exclude_files",
    "exclude_caches",
    "one_file_system",
    "ignore_inode",
    "object_tags",
    "at",
    "every",
    "offset",
    "last",
    "hourly",
    "daily",
    "weekly",
    "monthly",
    "yearly",
];

/// Words of other tools, and ours for them.
const SYNONYMS: [(&str, &str); 22] = [
    ("retention", "keep"),
    ("prune", "keep"),
    ("path", "paths"),
    ("sources", "source"),
    ("src", "source"),
    ("repository", "repo"),
    ("cron", "schedule"),
    ("when", "schedule"),
    ("tz", "timezone"),
    ("zone", "timezone"),
    ("excludes", "exclude"),
    ("ignore", "exclude"),
    ("tag", "tags"),
    ("label", "tags"),
    ("bind", "listen"),
    ("one_fs", "one_file_system"),
    ("access_key", "access_key_id"),
    ("secret_key", "secret_access_key"),
    ("endpoint_url", "endpoint"),
    ("cacert", "ca_file"),
    ("compress", "compression"),
    ("compression_level", "compression"),
];

/// Longer text is no slip of the finger, and the distance takes time by its length.
const TYPED_BYTES_MAX: usize = 64;

pub(super) fn is_public_key(word: &str) -> bool {
    PUBLIC_KEYS.contains(&word)
}

pub(super) fn nearest_key(typed: &str, known: &[&'static str]) -> Option<&'static str> {
    let lower = typed.to_ascii_lowercase();
    let translated = SYNONYMS.iter().find(|(word, ours)| *word == lower && known.contains(ours)).map(|(_, ours)| *ours);
    translated.or_else(|| nearest(&lower, known.iter().copied()))
}

/// The candidate that a slip of the finger or two could have turned into `typed`.
pub(super) fn nearest<'c>(typed: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if typed.len() > TYPED_BYTES_MAX {
        return None;
    }
    let allowed = (typed.chars().count() / 3).clamp(1, 3);
    let distances = candidates.into_iter().map(|word| (strsim::damerau_levenshtein(typed, word), word));
    distances.min().filter(|(distance, _)| *distance <= allowed).map(|(_, word)| word)
}
