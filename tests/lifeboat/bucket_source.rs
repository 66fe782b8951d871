//! Claims about buckets as sources of backups and as places of restores.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use lifeboat::address::Address;
use lifeboat::backup::{self, Control, Report, Request};
use lifeboat::bucket::{Bucket, Options, key};
use lifeboat::drill;
use lifeboat::pack::record::Outcome;
use lifeboat::repository::{Repository, Selection, Snapshot, Snapshots};
use lifeboat::restore::{self, Overwrite, upload};
use lifeboat::source::SourceError;
use lifeboat::store::memory::MemoryStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::support::repo::{fresh, later, noise};

type Meddle = Box<dyn Fn(&Path) -> Option<object_store::Error> + Send + Sync>;

/// A cloud in memory that counts, refuses and changes what it is told to.
struct Cloud {
    memory: InMemory,
    gets: AtomicU64,
    puts: AtomicU64,
    /// Called before each read; an error is the answer.
    on_get: Mutex<Option<Meddle>>,
    on_put: Mutex<Option<Meddle>>,
    backwards: bool,
}

impl std::fmt::Debug for Cloud {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cloud")
    }
}

impl std::fmt::Display for Cloud {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cloud")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Cloud {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.puts.fetch_add(1, Ordering::Relaxed);
        if let Some(error) = self.on_put.lock().unwrap().as_ref().and_then(|meddle| meddle(at)) {
            return Err(error);
        }
        self.memory.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.memory.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        if let Some(error) = self.on_get.lock().unwrap().as_ref().and_then(|meddle| meddle(at)) {
            return Err(error);
        }
        self.memory.get_opts(at, options).await
    }

    fn delete_stream(&self, all: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.memory.delete_stream(all)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let mut all: Vec<_> = futures_util::FutureExt::now_or_never(self.memory.list(prefix).collect()).unwrap();
        if self.backwards {
            all.reverse();
        }
        futures_util::stream::iter(all).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.memory.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.memory.copy_opts(from, to, options).await
    }
}

fn cloud() -> Arc<Cloud> {
    Arc::new(Cloud {
        memory: InMemory::new(),
        gets: AtomicU64::new(0),
        puts: AtomicU64::new(0),
        on_get: Mutex::default(),
        on_put: Mutex::default(),
        backwards: false,
    })
}

fn bucket(cloud: &Arc<Cloud>, url: &str) -> Bucket {
    let prefix = url.splitn(4, '/').nth(3).unwrap_or_default();
    Bucket::over(cloud.clone(), url, prefix).unwrap()
}

/// Puts an object under a key, as the clients of clouds would say it.
fn put(bucket: &Bucket, at: &str, bytes: &[u8]) {
    put_with(bucket, at, bytes, Attributes::new());
}

fn put_with(bucket: &Bucket, at: &str, bytes: &[u8], attributes: Attributes) {
    let (objects, at, payload) = (bucket.objects().clone(), location(bucket, at), PutPayload::from(bytes.to_vec()));
    let options = PutOptions { attributes, ..Default::default() };
    bucket.wait(async move { objects.put_opts(&at, payload, options).await }).unwrap().unwrap();
}

fn location(bucket: &Bucket, at: &str) -> Path {
    let path = key::to_path(at);
    match bucket.prefix().as_ref() {
        "" => Path::parse(path).unwrap(),
        prefix => Path::parse(format!("{prefix}/{path}")).unwrap(),
    }
}

/// Keys relative to the prefix, with their bytes.
fn content(bucket: &Bucket) -> BTreeMap<String, Vec<u8>> {
    let (objects, prefix) = (bucket.objects().clone(), bucket.prefix().clone());
    let all = bucket.wait(async move {
        let mut all = BTreeMap::new();
        let listed: Vec<ObjectMeta> = objects.list(Some(&prefix)).try_collect().await.unwrap();
        for meta in listed {
            let path = meta.location.as_ref()[prefix.as_ref().len()..].trim_start_matches('/').to_owned();
            let bytes = objects.get(&meta.location).await.unwrap().bytes().await.unwrap();
            all.insert(key::from_path(&path).into_owned(), bytes.to_vec());
        }
        all
    });
    all.unwrap()
}

fn attributes(bucket: &Bucket, at: &str) -> Attributes {
    let (objects, at) = (bucket.objects().clone(), location(bucket, at));
    bucket.wait(async move { objects.get(&at).await.unwrap().attributes }).unwrap()
}

fn repository() -> Repository {
    fresh(Arc::new(MemoryStore::default())).0
}

fn save(repository: &Repository, bucket: &Bucket) -> Report {
    let request = Request { buckets: vec![bucket.clone()], workers: 2, ..Request::default() };
    backup::run(repository, &later(), &request, &Control::default()).unwrap()
}

fn latest(repository: &Repository) -> Snapshot {
    Snapshots::list(repository).unwrap().latest(&Selection::default()).unwrap().clone()
}

fn into_bucket(repository: &Repository, request: upload::Request) -> restore::Result<restore::Report> {
    let control = restore::Control::default();
    upload::run(repository, &upload::plan(repository, request, &control)?, &control)
}

fn copy_to(repository: &Repository, to: &Bucket) -> restore::Report {
    into_bucket(repository, upload::Request::new(latest(repository), to.clone())).unwrap()
}

const ODD_KEYS: [&str; 20] = [
    "",
    "/",
    "//",
    "a",
    "a/",
    "a/b",
    "a//b",
    "/a",
    "a-b",
    "a.b",
    "../x",
    "./a/../b",
    "..",
    "line\nbreak",
    "100%25",
    "a%=",
    "%2E",
    "größe/日本",
    "photos/2020-01-01",
    "tab\there",
];

#[test]
fn every_key_comes_back_in_another_bucket() {
    for prefix in ["", "/some/prefix"] {
        let (from, to) = (cloud(), cloud());
        let (from, to) = (bucket(&from, &format!("s3://from{prefix}")), bucket(&to, "gs://to"));
        let odd: Vec<&str> = ODD_KEYS.iter().copied().filter(|key| !(prefix.is_empty() && key.is_empty())).collect();
        let long = ["x".repeat(1024), format!("{}/{}", "d".repeat(600), "é".repeat(200))];
        let all: Vec<&str> = odd.into_iter().chain(long.iter().map(String::as_str)).collect();
        for key in &all {
            put(&from, key, format!("I am {key:?}").as_bytes());
        }
        let repository = repository();
        let report = save(&repository, &from);
        assert_eq!((report.outcome, report.counts.files), (Outcome::Complete, all.len() as u64), "{report:?}");
        let report = copy_to(&repository, &to);
        assert!(report.is_whole(), "{report:?}");
        let (theirs, ours) = (content(&from), content(&to));
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
        assert!(ours == theirs);
        for (key, bytes) in &ours {
            assert_eq!(bytes, format!("I am {key:?}").as_bytes());
        }
    }
}

#[test]
fn a_directory_takes_every_key_under_a_name_that_leads_back_and_is_told() {
    let from = bucket(&cloud(), "s3://from");
    let long = "x".repeat(1000);
    let keys: Vec<&str> = ODD_KEYS.iter().copied().filter(|key| !key.is_empty()).chain([long.as_str()]).collect();
    for key in &keys {
        put(&from, key, key.as_bytes());
    }
    let repository = repository();
    save(&repository, &from);
    let dir = tempfile::tempdir().unwrap();
    let (to, control) = (dir.path().join("to"), restore::Control::default());
    let request = restore::Request {
        path: Some(b"/s3:/from".to_vec()),
        verify: true,
        ..restore::Request::new(latest(&repository), to.clone())
    };
    let report = restore::run(&repository, &restore::plan(&repository, request, &control).unwrap(), &control).unwrap();
    assert!(report.is_whole() && report.omitted.is_empty(), "{report:?}");
    assert_eq!(report.verified_files, keys.len() as u64);
    let mut found = BTreeMap::new();
    let mut folders = vec![to.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&to).unwrap().to_str().unwrap().to_owned();
            found.insert(key::from_path(&name).into_owned(), (name, fs::read(path).unwrap()));
        }
    }
    let mut wanted = keys.clone();
    wanted.sort_unstable();
    assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), wanted);
    assert!(found.iter().all(|(key, (_, bytes))| key.as_bytes() == bytes));
    let other = found.iter().filter(|(key, (name, _))| *key != name).count() as u64;
    assert_eq!((report.renamed_count, report.renamed.len() as u64), (other, other), "{:?}", report.renamed);
    assert!(report.renamed.iter().any(|told| told.ends_with("/a is a%= here") || told == "the object a is a%= here"));
}

#[test]
fn an_unchanged_bucket_is_listed_and_not_read() {
    let cloud = cloud();
    let from = bucket(&cloud, "s3://from/p");
    for n in 0..500 {
        put(&from, &format!("k-{n}/x"), &noise(100, n));
    }
    let repository = repository();
    save(&repository, &from);
    cloud.gets.store(0, Ordering::Relaxed);
    let report = save(&repository, &from);
    assert_eq!((cloud.gets.load(Ordering::Relaxed), report.counts.files_read), (0, 0));
    assert_eq!((report.counts.files, report.counts.bytes), (500, 50_000));
    put(&from, "k-7/x", b"changed");
    put(&from, "k-7/y", b"new");
    let report = save(&repository, &from);
    assert_eq!((cloud.gets.load(Ordering::Relaxed), report.counts.files_read, report.counts.files), (2, 2, 501));
    let to = bucket(&self::cloud(), "s3://to");
    copy_to(&repository, &to);
    assert!(content(&to) == content(&from));
}

/// A sequence of numbers that looks like chance, the same for the same seed.
fn chance(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes());
    let mut reader = hash.finalize_xof();
    move |below| {
        let mut bytes = [0; 8];
        reader.fill(&mut bytes);
        u64::from_le_bytes(bytes) % below
    }
}

fn keys_over_many_runs(backwards: bool, seed: u64) {
    let cloud = Arc::new(Cloud { backwards, ..Arc::into_inner(cloud()).unwrap() });
    let from = bucket(&cloud, "s3://from/p");
    let repository = repository();
    let mut chance = chance(seed);
    let mut there: BTreeMap<String, u64> = BTreeMap::new();
    let key = |chance: &mut dyn FnMut(u64) -> u64| {
        // Where keys by their bytes and paths part: `2020-01`, `2020/01`, `2020.01`, and objects beside what would be directories.
        let mark = |n| ["/", "-", ".", "", "/x-"][n as usize];
        let (year, month, rest) = (chance(12), chance(12), chance(30));
        format!("20{year}{}{month}{}{rest}", mark(chance(5)), mark(chance(5)))
    };
    for round in 0..6 {
        let (mut new, mut changed) = (0, 0);
        let mut written = BTreeMap::new();
        let count = [2500, 0, 3, 40, 400, 1][round];
        for _ in 0..count {
            let (key, number) = (key(&mut chance), chance(1 << 40));
            match there.get(&key) {
                None if !written.contains_key(&key) => new += 1,
                Some(_) if !written.contains_key(&key) => changed += 1,
                _ => {}
            }
            put(&from, &key, &noise(20, number));
            written.insert(key, number);
        }
        there.extend(written.clone());
        if round > 2 {
            // A stretch of neighbours, long enough for whole leaves, and some here and there.
            let at = chance(there.len() as u64) as usize;
            let far = there.keys().nth(at).cloned().unwrap_or_default();
            let mut gone: Vec<String> = there.range(far..).take(600).map(|(key, _)| key.clone()).collect();
            gone.extend(there.keys().filter(|_| chance(50) == 0).cloned());
            gone.retain(|key| !written.contains_key(key));
            for key in gone {
                let (objects, at) = (from.objects().clone(), location(&from, &key));
                from.wait(async move { objects.delete(&at).await }).unwrap().unwrap();
                there.remove(&key);
            }
        }
        cloud.gets.store(0, Ordering::Relaxed);
        let report = save(&repository, &from);
        assert_eq!((report.files_new, report.files_changed), (new, changed), "seed {seed}, round {round}");
        assert_eq!(cloud.gets.load(Ordering::Relaxed), new + changed, "seed {seed}, round {round}");
        assert_eq!(report.counts.files, there.len() as u64, "seed {seed}, round {round}");
        assert_eq!(report.counts.directories, 1);
        let to = bucket(&self::cloud(), "s3://to");
        assert!(copy_to(&repository, &to).is_whole());
        assert!(content(&to) == content(&from), "seed {seed}, round {round}");
        let source = &latest(&repository).body.unwrap().sources[0];
        // The same tree as a writer makes that never saw the bucket before, but for the ids, which are each writer's own.
        let fresh = self::repository();
        save(&fresh, &from);
        let whole = &latest(&fresh).body.unwrap().sources[0];
        assert_eq!((source.root.entries, source.root.bytes), (whole.root.entries, whole.root.bytes));
    }
}

#[test]
fn changes_among_unchanged_keys_are_what_a_run_fetches() {
    (1..4).for_each(|seed| keys_over_many_runs(false, seed));
}

#[test]
fn a_listing_backwards_fetches_no_more() {
    keys_over_many_runs(true, 7);
}

#[test]
fn properties_come_back_with_large_objects_and_small() {
    let (from, to) = (bucket(&cloud(), "s3://from"), bucket(&cloud(), "s3://to/there"));
    let properties = || -> Attributes {
        [
            (Attribute::ContentType, "image/png"),
            (Attribute::ContentEncoding, "br"),
            (Attribute::CacheControl, "no-store"),
            (Attribute::Metadata("owner".into()), "Ünsal"),
        ]
        .into_iter()
        .collect()
    };
    let (large, huge) = (noise(20_000_001, 1), noise(70 << 20, 2));
    put_with(&from, "small", b"small", properties());
    put_with(&from, "large", &large, properties());
    put_with(&from, "huge", &huge, properties());
    put(&from, "plain", b"");
    let repository = repository();
    save(&repository, &from);
    let report = copy_to(&repository, &to);
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((report.files, report.bytes), (4, 5 + large.len() as u64 + huge.len() as u64));
    let back = content(&to);
    assert!(back["large"] == large && back["huge"] == huge && back["small"] == b"small" && back["plain"].is_empty());
    for key in ["small", "large", "huge"] {
        assert_eq!(attributes(&to, key), properties(), "{key}");
    }
    assert_eq!(attributes(&to, "plain"), Attributes::new());
}

#[test]
fn one_unreadable_key_makes_the_run_partial_and_a_vanished_one_does_not() {
    let cloud = cloud();
    let from = bucket(&cloud, "s3://from");
    for key in ["a", "denied", "gone", "z"] {
        put(&from, key, key.as_bytes());
    }
    *cloud.on_get.lock().unwrap() = Some(Box::new(|at| {
        let (path, source) = (at.to_string(), "no".into());
        match at.as_ref() {
            "denied" => Some(object_store::Error::PermissionDenied { path, source }),
            "gone" => Some(object_store::Error::NotFound { path, source }),
            _ => None,
        }
    }));
    let repository = repository();
    let report = save(&repository, &from);
    assert_eq!(report.outcome, Outcome::Partial);
    assert_eq!((report.counts.files, report.counts.unreadable, report.counts.vanished), (2, 1, 1));
    assert!(report.problems.iter().any(|told| told.starts_with("s3://from/denied")), "{:?}", report.problems);
    *cloud.on_get.lock().unwrap() = None;
    let report = save(&repository, &from);
    assert_eq!((report.outcome, report.counts.files, report.counts.files_read), (Outcome::Complete, 4, 2));
}

#[test]
fn an_object_that_changes_while_it_is_read_is_never_mixed() {
    let cloud = cloud();
    let from = bucket(&cloud, "s3://from");
    let (old, new) = (vec![1; 40 << 20], vec![2; 40 << 20]);
    put(&from, "large", &old);
    put(&from, "small", b"old");
    let (objects, reads) = (Arc::downgrade(&cloud), AtomicU64::new(0));
    let replacement = PutPayload::from(new.clone());
    *cloud.on_get.lock().unwrap() = Some(Box::new(move |at| {
        let objects = objects.upgrade().unwrap();
        let replace = |payload: PutPayload| {
            futures_util::FutureExt::now_or_never(objects.memory.put(at, payload)).unwrap().unwrap();
        };
        match at.as_ref() {
            // After the third range, and before the only read of the small one.
            "large" if reads.fetch_add(1, Ordering::Relaxed) == 3 => replace(replacement.clone()),
            "small" => replace("new".into()),
            _ => {}
        }
        None
    }));
    let repository = repository();
    let report = save(&repository, &from);
    assert_eq!((report.outcome, report.counts.changed), (Outcome::Complete, 0), "{report:?}");
    *cloud.on_get.lock().unwrap() = None;
    let to = bucket(&self::cloud(), "s3://to");
    copy_to(&repository, &to);
    let back = content(&to);
    assert!(back["large"] == new && back["small"] == b"new");
}

#[test]
fn an_object_that_never_rests_is_named_and_left_out() {
    let cloud = cloud();
    let from = bucket(&cloud, "s3://from");
    put(&from, "restless", &vec![0; 12 << 20]);
    put(&from, "quiet", b"quiet");
    let (objects, reads) = (Arc::downgrade(&cloud), AtomicU64::new(0));
    *cloud.on_get.lock().unwrap() = Some(Box::new(move |at| {
        let objects = objects.upgrade().unwrap();
        if at.as_ref() == "restless" {
            let bytes = vec![reads.fetch_add(1, Ordering::Relaxed) as u8; 12 << 20];
            futures_util::FutureExt::now_or_never(objects.memory.put(at, bytes.into())).unwrap().unwrap();
        }
        None
    }));
    let repository = repository();
    let report = save(&repository, &from);
    assert_eq!((report.outcome, report.counts.changed, report.counts.files), (Outcome::Partial, 1, 1), "{report:?}");
    assert!(report.problems[0].contains("s3://from/restless"), "{:?}", report.problems);
}

#[test]
fn a_listing_in_any_order_gives_the_same_snapshot() {
    let cloud = Arc::new(Cloud { backwards: true, ..Arc::into_inner(cloud()).unwrap() });
    let from = bucket(&cloud, "s3://from");
    for n in 0..300 {
        put(&from, &format!("{}/{n}", n % 7), &noise(50, n));
    }
    let repository = repository();
    save(&repository, &from);
    let to = bucket(&self::cloud(), "s3://to");
    assert!(copy_to(&repository, &to).is_whole());
    assert!(content(&to) == content(&from));
}

#[test]
fn an_empty_bucket_is_a_snapshot_and_a_prefix_of_nothing_an_error() {
    let (objects, repository) = (cloud(), repository());
    let typo = Request { buckets: vec![bucket(&objects, "s3://from/typo")], ..Request::default() };
    let error = backup::run(&repository, &later(), &typo, &Control::default()).unwrap_err();
    assert!(matches!(error, backup::Error::Source(SourceError::Missing { .. })), "{error}");
    let from = bucket(&objects, "s3://from");
    let report = save(&repository, &from);
    assert_eq!((report.outcome, report.counts.files), (Outcome::Complete, 0));
    let to = bucket(&cloud(), "s3://to");
    assert_eq!(copy_to(&repository, &to).files, 0);
    assert!(content(&to).is_empty());
}

#[test]
fn nothing_is_written_where_something_stands_unless_it_may_be_replaced() {
    let (from, there) = (bucket(&cloud(), "s3://from"), cloud());
    let to = bucket(&there, "s3://to/p");
    for key in ["a", "b", "c/d"] {
        put(&from, key, key.as_bytes());
    }
    let repository = repository();
    save(&repository, &from);
    put(&to, "b", b"theirs");
    put(&to, "other", b"theirs");
    put(&bucket(&there, "s3://to"), "outside", b"theirs");
    let refused = into_bucket(&repository, upload::Request::new(latest(&repository), to.clone())).unwrap_err();
    assert!(matches!(refused, restore::Error::BucketNotEmpty { .. }), "{refused}");
    let over = |overwrite, delete| upload::Request {
        overwrite,
        delete,
        ..upload::Request::new(latest(&repository), to.clone())
    };
    assert_eq!(into_bucket(&repository, over(Overwrite::Always, false)).unwrap().files, 3);
    assert_eq!(content(&to).keys().collect::<Vec<_>>(), ["a", "b", "c/d", "other"]);
    assert_eq!(content(&to)["b"], b"b");
    let report = into_bucket(&repository, over(Overwrite::Always, true)).unwrap();
    assert_eq!((report.files, report.deleted), (3, 1));
    assert_eq!(content(&bucket(&there, "s3://to")).keys().collect::<Vec<_>>(), ["outside", "p/a", "p/b", "p/c/d"]);
}

#[test]
fn what_is_still_the_saved_object_stays_and_what_changed_is_replaced() {
    let cloud = cloud();
    let from = bucket(&cloud, "s3://from");
    for key in ["kept", "changed", "removed"] {
        put(&from, key, key.as_bytes());
    }
    let repository = repository();
    save(&repository, &from);
    put(&from, "changed", b"CHANGED");
    let (objects, at) = (from.objects().clone(), location(&from, "removed"));
    from.wait(async move { objects.delete(&at).await }).unwrap().unwrap();
    cloud.puts.store(0, Ordering::Relaxed);
    let request =
        upload::Request { overwrite: Overwrite::IfChanged, ..upload::Request::new(latest(&repository), from.clone()) };
    let report = into_bucket(&repository, request).unwrap();
    assert_eq!((report.files, report.skipped_unchanged, cloud.puts.load(Ordering::Relaxed)), (2, 1, 2), "{report:?}");
    assert!(content(&from).iter().all(|(key, bytes)| key.as_bytes() == bytes));
}

#[test]
fn an_interrupted_restore_goes_on_and_another_one_is_kept_out() {
    let (from, there) = (bucket(&cloud(), "s3://from"), cloud());
    let to = bucket(&there, "s3://to");
    for n in 0..200 {
        put(&from, &format!("{n:03}"), &noise(2000, n));
    }
    let repository = repository();
    save(&repository, &from);
    *there.on_put.lock().unwrap() = Some(Box::new(|at| {
        let (path, source) = (at.to_string(), "no".into());
        (at.as_ref() > "100").then_some(object_store::Error::PermissionDenied { path, source })
    }));
    let cut = into_bucket(&repository, upload::Request::new(latest(&repository), to.clone())).unwrap_err();
    assert!(matches!(cut, restore::Error::Bucket { .. }), "{cut}");
    *there.on_put.lock().unwrap() = None;
    let written = content(&to).len() as u64 - 1;
    assert!(written >= 100, "{written}");
    let first = latest(&repository);
    put(&from, "new", b"new");
    save(&repository, &from);
    let other = into_bucket(&repository, upload::Request::new(latest(&repository), to.clone())).unwrap_err();
    assert!(matches!(other, restore::Error::OtherUpload { .. }), "{other}");
    let report = into_bucket(&repository, upload::Request::new(first, to.clone())).unwrap();
    assert_eq!((report.files, report.skipped_unchanged), (200 - written, written), "{report:?}");
    assert_eq!(content(&to).len(), 200, "the mark is gone");
}

#[test]
fn an_object_that_cannot_be_written_is_named_and_the_same_command_brings_it() {
    let (from, there) = (bucket(&cloud(), "s3://from"), cloud());
    let to = bucket(&there, "s3://to");
    for key in ["a", "b", "c"] {
        put(&from, key, key.as_bytes());
    }
    let repository = repository();
    save(&repository, &from);
    *there.on_put.lock().unwrap() = Some(Box::new(|at| {
        let (path, source) = (at.to_string(), "no".into());
        (at.as_ref() == "b").then_some(object_store::Error::PermissionDenied { path, source })
    }));
    let report = copy_to(&repository, &to);
    assert_eq!((report.files, report.losses_count), (2, 1), "{report:?}");
    assert!(report.losses[0].contains("s3://to/b"), "{:?}", report.losses);
    *there.on_put.lock().unwrap() = None;
    let report = copy_to(&repository, &to);
    assert_eq!((report.files, report.skipped_unchanged, report.losses_count), (1, 2, 0), "{report:?}");
    assert_eq!(content(&to).len(), 3);
}

#[test]
fn files_become_objects_and_what_no_object_can_be_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("sub/empty")).unwrap();
    fs::write(dir.path().join("sub/100%25"), b"percent").unwrap();
    fs::write(dir.path().join("line\nbreak"), b"line").unwrap();
    std::os::unix::fs::symlink("sub", dir.path().join("link")).unwrap();
    let repository = repository();
    crate::support::repo::backup(&repository, dir.path());
    let to = bucket(&cloud(), "s3://to");
    let path = Some(dir.path().as_os_str().as_encoded_bytes().to_vec());
    let report =
        into_bucket(&repository, upload::Request { path, ..upload::Request::new(latest(&repository), to.clone()) })
            .unwrap();
    assert_eq!((report.files, report.losses_count), (2, 1), "{report:?}");
    assert!(report.losses[0].contains("link"));
    let back = content(&to);
    assert_eq!(back.keys().collect::<Vec<_>>(), ["line\nbreak", "sub/100%25"]);
    assert_eq!(back["sub/100%25"], b"percent");
}

#[test]
fn excluded_keys_are_left_out_with_all_beneath_them() {
    let from = bucket(&cloud(), "s3://from/p");
    for key in ["a.tmp", "keep", "cache/x", "cache/y/z", "deep/cache/w", "deep/b.tmp", "deep/keep"] {
        put(&from, key, key.as_bytes());
    }
    let repository = repository();
    let excludes = ["*.tmp", "./cache"].map(str::to_owned).to_vec();
    let request = Request { buckets: vec![from], excludes, ..Request::default() };
    backup::run(&repository, &later(), &request, &Control::default()).unwrap();
    let to = bucket(&self::cloud(), "s3://to");
    copy_to(&repository, &to);
    assert_eq!(content(&to).keys().collect::<Vec<_>>(), ["deep/cache/w", "deep/keep", "keep"]);
}

#[test]
fn a_cancelled_backup_goes_on_with_what_it_uploaded() {
    let cloud = cloud();
    let from = bucket(&cloud, "s3://from");
    // More than is fetched ahead: what was read at the cancel is stored for the most part.
    for n in 0..200 {
        put(&from, &format!("{n}"), &noise(400_000, n));
    }
    let repository = repository();
    let control = Control::default();
    let (cancel, reads) = (control.cancel.clone(), AtomicU64::new(0));
    *cloud.on_get.lock().unwrap() = Some(Box::new(move |_| {
        if reads.fetch_add(1, Ordering::Relaxed) == 190 {
            cancel.store(true, Ordering::Relaxed);
        }
        None
    }));
    let request = Request { buckets: vec![from.clone()], workers: 2, ..Request::default() };
    let error = backup::run(&repository, &later(), &request, &control).unwrap_err();
    assert!(matches!(error, backup::Error::Cancelled), "{error}");
    *cloud.on_get.lock().unwrap() = None;
    let report = save(&repository, &from);
    assert_eq!((report.outcome, report.counts.files), (Outcome::Complete, 200));
    assert!(report.counts.bytes_new < report.counts.bytes, "{report:?}");
}

#[test]
fn a_drill_finds_objects_where_they_land() {
    let from = bucket(&cloud(), "s3://from");
    let long = "x".repeat(700);
    for key in ODD_KEYS.iter().copied().filter(|key| !key.is_empty()).chain([long.as_str()]) {
        put(&from, key, key.as_bytes());
    }
    let repository = repository();
    save(&repository, &from);
    let scratch = tempfile::tempdir().unwrap();
    let request = drill::Request { selection: Selection::default(), files: 1000, scratch: scratch.path() };
    let findings = drill::sample(&repository, &request, &restore::Control::default()).unwrap();
    assert_eq!((findings.checked_files, findings.mismatches_count, findings.not_run), (20, 0, 0), "{findings:?}");
}

/// What a server was asked for: the target of each request, and whether it was signed.
type Asked = Arc<Mutex<Vec<(String, bool)>>>;

#[test]
fn keys_reach_a_server_as_they_are() {
    const PAGE: &str = "<ListBucketResult><Contents><Key>p/a/</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
        <ETag>&quot;1&quot;</ETag><Size>2</Size></Contents><Contents><Key>p//b&#xA;c</Key>\
        <LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;1&quot;</ETag><Size>2</Size></Contents>\
        <Contents><Key>p/../d</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;1&quot;</ETag>\
        <Size>2</Size></Contents></ListBucketResult>";
    let asked = Asked::default();
    let server = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (told, listener) = (asked.clone(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    listener.set_nonblocking(true).unwrap();
    server.spawn(async move {
        let answer = move |request: axum::extract::Request| {
            let target = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
            let signed = request.headers().get("authorization").is_some();
            told.lock().unwrap().push((target.clone(), signed));
            async move {
                let answer = axum::response::Response::builder().header("etag", "\"1\"");
                let answer = answer.header("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT");
                match target.contains("list-type") {
                    true => answer.header("content-type", "application/xml").body(PAGE.to_owned()),
                    false => answer.body("ok".to_owned()),
                }
                .unwrap()
            }
        };
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        axum::serve(listener, axum::Router::new().fallback(answer)).await.unwrap();
    });
    let settings = [
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_ENDPOINT_URL", &endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
    ];
    let options = Options::from_variables(settings.map(|(name, value)| (name.into(), value.into()))).unwrap();
    let Ok(Address::Bucket(address)) = Address::parse("s3://bucket/p") else { panic!("it is a bucket") };
    let from = Bucket::open(&address, &options).unwrap();
    let repository = repository();
    let report = save(&repository, &from);
    assert_eq!((report.counts.files, report.counts.unreadable), (2, 1), "{report:?}");
    assert!(report.problems[0].starts_with("s3://bucket/p/../d"), "{:?}", report.problems);
    let asked = asked.lock().unwrap();
    assert!(asked.iter().all(|(_, signed)| *signed), "{asked:?}");
    for target in ["/bucket/p/a/", "/bucket/p//b%0Ac"] {
        assert!(asked.iter().any(|(asked, _)| asked == target), "{target}: {asked:?}");
    }
    let to = bucket(&cloud(), "s3://to");
    copy_to(&repository, &to);
    assert_eq!(content(&to).keys().collect::<Vec<_>>(), ["/b\nc", "a/"]);
}

/// A bucket of the double that speaks as S3 does.
fn s3(cloud: &crate::support::cloud::Cloud, prefix: &str) -> Bucket {
    let endpoint = cloud.url();
    let settings = [
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_ENDPOINT_URL", &endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", crate::support::cloud::REGION),
    ];
    let options = Options::from_variables(settings.map(|(name, value)| (name.into(), value.into()))).unwrap();
    let url = format!("s3://{}/{prefix}", crate::support::cloud::BUCKET);
    let Ok(Address::Bucket(address)) = Address::parse(&url) else { panic!("it is a bucket") };
    Bucket::open(&address, &options).unwrap()
}

fn put_tagged(bucket: &Bucket, at: &str, bytes: &[u8], pairs: &[(&str, &str)]) {
    let (objects, at, payload) = (bucket.objects().clone(), location(bucket, at), PutPayload::from(bytes.to_vec()));
    let mut tags = object_store::TagSet::default();
    pairs.iter().for_each(|(name, value)| tags.push(name, value));
    let options = PutOptions { tags, ..Default::default() };
    bucket.wait(async move { objects.put_opts(&at, payload, options).await }).unwrap().unwrap();
}

fn tags_of(bucket: &Bucket, at: &str) -> Vec<(String, String)> {
    let (asked, at) = (bucket.clone(), location(bucket, at));
    bucket.wait(async move { lifeboat::source::bucket::tags(&asked, &at).await }).unwrap().unwrap()
}

#[test]
fn tags_come_back_where_they_were_asked_for() {
    let cloud = crate::support::cloud::Cloud::s3();
    let from = s3(&cloud, "from");
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    put_tagged(&from, "small", b"small", &[("team", "red"), ("class", "7")]);
    put_tagged(&from, "large", &noise(9 << 20, 1), &[("team", "blue")]);
    put_tagged(&from, "bare", b"bare", &[]);
    let repository = repository();
    let tagged = |tags| {
        let request = Request { buckets: vec![from.clone()], object_tags: tags, workers: 2, ..Request::default() };
        backup::run(&repository, &later(), &request, &Control::default()).unwrap()
    };
    assert_eq!(tagged(false).counts.files_read, 3);
    let report = tagged(true);
    assert_eq!((report.counts.files_read, report.counts.unreadable), (3, 0), "none was asked before: {report:?}");
    assert_eq!(tagged(true).counts.files_read, 0);
    assert_eq!(tagged(false).counts.files_read, 0, "and what is known stays");

    let to = s3(&cloud, "to");
    assert!(copy_to(&repository, &to).is_whole());
    assert_eq!(tags_of(&to, "small"), [pair("class", "7"), pair("team", "red")]);
    assert_eq!(tags_of(&to, "large"), [pair("team", "blue")]);
    assert_eq!(tags_of(&to, "bare"), []);

    put_tagged(&to, "small", b"small", &[("team", "grey")]);
    let mut request = upload::Request::new(latest(&repository), to.clone());
    request.overwrite = Overwrite::IfChanged;
    into_bucket(&repository, request).unwrap();
    assert_eq!(tags_of(&to, "small"), [pair("class", "7"), pair("team", "red")], "tags are compared as well");
}

#[test]
fn tags_are_refused_where_no_cloud_has_them() {
    let from = bucket(&cloud(), "gs://from");
    let request = Request { buckets: vec![from], object_tags: true, ..Request::default() };
    let error = backup::run(&repository(), &later(), &request, &Control::default()).unwrap_err();
    assert!(matches!(error, backup::Error::Source(SourceError::NoTags { .. })), "{error}");
}
