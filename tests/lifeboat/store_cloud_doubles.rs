//! The doubles themselves, asked by the clients they are made for: an honest one does all that those can ask, a faulty one
//! fails as it was told and in no other way.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientOptions, Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload, RetryConfig, TagSet, UpdateVersion,
};

use crate::support::cloud::{BUCKET, Cloud, Conditions, Fault, REGION, Refusal, Verb};
use crate::support::repo::noise;
use crate::support::service::until;
use crate::support::tcp_proxy::{Direction, Fate, TcpProxy};

fn quick() -> RetryConfig {
    let (init_backoff, max_backoff) = (Duration::from_millis(1), Duration::from_millis(5));
    let backoff = BackoffConfig { init_backoff, max_backoff, base: 2.0 };
    RetryConfig { backoff, max_retries: 4, retry_timeout: Duration::from_secs(60) }
}

fn patient() -> ClientOptions {
    ClientOptions::new().with_allow_http(true).with_timeout(Duration::from_secs(60))
}

fn s3_at(url: &str) -> AmazonS3Builder {
    AmazonS3Builder::new()
        .with_endpoint(url)
        .with_bucket_name(BUCKET)
        .with_region(REGION)
        .with_access_key_id("dummy")
        .with_secret_access_key("dummy")
        .with_client_options(patient())
        .with_retry(quick())
}

fn s3(cloud: &Cloud) -> Box<dyn ObjectStore> {
    Box::new(s3_at(&cloud.url()).build().unwrap())
}

fn gcs(cloud: &Cloud) -> Box<dyn ObjectStore> {
    let builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(BUCKET)
        .with_base_url(&cloud.url())
        .with_bearer_token("dummy")
        .with_client_options(patient())
        .with_retry(quick());
    Box::new(builder.build().unwrap())
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn create() -> PutOptions {
    PutOptions::from(PutMode::Create)
}

async fn names(store: &dyn ObjectStore, prefix: Option<&str>) -> Vec<String> {
    let prefix = prefix.map(Path::from);
    store.list(prefix.as_ref()).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap()
}

async fn bytes(store: &dyn ObjectStore, key: &str) -> Vec<u8> {
    store.get(&Path::parse(key).unwrap()).await.unwrap().bytes().await.unwrap().to_vec()
}

/// All that a client can ask of a cloud that keeps its promises.
async fn honest(store: &dyn ObjectStore, cloud: &Cloud) {
    let whole = noise(300_000, 1);
    let key = Path::from("a/b c+d%2F/größe");
    let attributes = Attributes::from_iter([
        (Attribute::ContentType, "text/plain"),
        (Attribute::StorageClass, "STANDARD_IA"),
        (Attribute::Metadata("note".into()), "kept"),
    ]);
    let mut tags = TagSet::default();
    tags.push("team", "blue");
    let options = PutOptions { attributes: attributes.clone(), tags, ..create() };
    let put = store.put_opts(&key, PutPayload::from(whole.clone()), options).await.unwrap();
    let again = store.put_opts(&key, "other".into(), create()).await.unwrap_err();
    assert!(matches!(again, Error::AlreadyExists { .. }), "{again}");
    assert_eq!(bytes(store, key.as_ref()).await, whole);
    assert_eq!(store.get_range(&key, 5..4096).await.unwrap(), whole[5..4096]);
    assert_eq!(store.get_range(&key, 299_999..300_000).await.unwrap(), whole[299_999..]);
    assert!(store.get_range(&key, 300_000..300_001).await.is_err());
    let found = store.get_opts(&key, GetOptions { head: true, ..Default::default() }).await.unwrap();
    assert_eq!(found.meta.size, 300_000);
    assert_eq!(found.meta.e_tag, put.e_tag);
    assert_eq!(found.attributes.get(&Attribute::Metadata("note".into())).unwrap().as_ref(), "kept");
    assert_eq!(found.attributes.get(&Attribute::ContentType).unwrap().as_ref(), "text/plain");
    let absent = store.head(&Path::from("absent")).await.unwrap_err();
    assert!(matches!(absent, Error::NotFound { .. }), "{absent}");

    // Swapping what stands there goes by its version.
    let version = UpdateVersion { e_tag: put.e_tag.clone(), version: put.version.clone() };
    let update = PutOptions::from(PutMode::Update(version));
    store.put_opts(&key, "second".into(), update.clone()).await.unwrap();
    let late = store.put_opts(&key, "third".into(), update).await.unwrap_err();
    assert!(matches!(late, Error::Precondition { .. }), "{late}");
    assert_eq!(bytes(store, key.as_ref()).await, b"second");

    // An upload in parts is nothing until it is complete, and nothing is left of one that was given up.
    let parts = noise(11 << 20, 2);
    let mut upload = store.put_multipart(&Path::from("large")).await.unwrap();
    for part in parts.chunks(5 << 20) {
        upload.put_part(part.to_vec().into()).await.unwrap();
    }
    assert_eq!(names(store, None).await, [key.to_string()]);
    assert_eq!(cloud.unfinished(), ["large"]);
    upload.complete().await.unwrap();
    assert_eq!(bytes(store, "large").await, parts);
    let mut upload = store.put_multipart(&Path::from("given-up")).await.unwrap();
    upload.put_part("part".into()).await.unwrap();
    upload.abort().await.unwrap();
    assert_eq!(cloud.unfinished(), [""; 0]);
    let mut upload = store.put_multipart(&Path::from("small-parts")).await.unwrap();
    upload.put_part("one".into()).await.unwrap();
    upload.put_part("two".into()).await.unwrap();
    let small = upload.complete().await.unwrap_err();
    assert!(format!("{small:?}").contains("EntityTooSmall"), "{small:?}");

    store.delete(&key).await.unwrap();
    store.delete(&Path::from("large")).await.unwrap();
    assert_eq!(names(store, None).await, [""; 0]);
    listings(store, cloud).await;
}

async fn listings(store: &dyn ObjectStore, cloud: &Cloud) {
    let keys: Vec<String> = (0..25).map(|n| format!("l/{}/{n:02}", n % 3)).collect();
    for key in &keys {
        store.put(&Path::from(key.as_str()), "x".into()).await.unwrap();
    }
    cloud.plant("m", b"y");
    let mut ordered = keys.clone();
    ordered.sort();
    for page in [1, 2, 8, 9, 25, 1000] {
        cloud.page_keys(page);
        assert_eq!(names(store, Some("l")).await, ordered, "pages of {page}");
        let after: Vec<String> = store
            .list_with_offset(Some(&Path::from("l")), &Path::from("l/1/13"))
            .map_ok(|meta| meta.location.to_string())
            .try_collect()
            .await
            .unwrap();
        let expected: Vec<&String> = ordered.iter().filter(|key| key.as_str() > "l/1/13").collect();
        assert_eq!(after.iter().collect::<Vec<_>>(), expected, "pages of {page}");
        let folders = store.list_with_delimiter(Some(&Path::from("l"))).await.unwrap();
        assert_eq!(folders.common_prefixes, ["l/0", "l/1", "l/2"].map(Path::from), "pages of {page}");
        let top = store.list_with_delimiter(None).await.unwrap();
        assert_eq!(top.objects.len(), 1, "pages of {page}");
        assert_eq!(top.common_prefixes, [Path::from("l")], "pages of {page}");
    }
    let all = futures_util::stream::iter(ordered.into_iter().map(|key| Ok(Path::from(key)))).boxed();
    let deleted: Vec<Path> = store.delete_stream(all).try_collect().await.unwrap();
    assert_eq!(deleted.len(), 25);
    assert_eq!(names(store, None).await, ["m"]);
}

#[test]
fn the_s3_double_does_what_its_client_asks() {
    let cloud = Cloud::s3();
    wait(honest(&*s3(&cloud), &cloud));
    let put = cloud.requests().into_iter().find(|request| request.verb == Verb::Put).unwrap();
    assert_eq!(put.header("x-amz-storage-class"), Some("STANDARD_IA"));
    assert_eq!(put.header("x-amz-tagging"), Some("team=blue"));
    assert!(put.header("authorization").unwrap().contains("Credential=dummy/"));
    assert_eq!(put.key, "a/b c+d%252F/gr%C3%B6%C3%9Fe");
    assert_eq!(cloud.count(Verb::BulkDelete), 3);
    cloud.assert_every_fault_was_met();
}

#[test]
fn the_gcs_double_does_what_its_client_asks() {
    let cloud = Cloud::gcs();
    wait(honest(&*gcs(&cloud), &cloud));
    assert_eq!(cloud.count(Verb::BulkDelete), 0);
}

#[test]
fn a_signature_that_is_missing_or_for_another_region_is_refused() {
    let cloud = Cloud::s3();
    let key = Path::from("x");
    let unsigned = s3_at(&cloud.url()).with_skip_signature(true).build().unwrap();
    let error = wait(unsigned.put(&key, "x".into())).unwrap_err();
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error}");
    let elsewhere = s3_at(&cloud.url()).with_region("eu-central-1").build().unwrap();
    let error = wait(elsewhere.put(&key, "x".into())).unwrap_err();
    assert!(error.to_string().contains("<Region>us-east-1</Region>"), "{error}");
    let lost = s3_at(&cloud.url()).with_bucket_name("another").build().unwrap();
    let error = wait(lost.get(&key)).unwrap_err();
    assert!(error.to_string().contains("NoSuchBucket"), "{error}");
    assert_eq!(cloud.keys(), [""; 0]);
}

#[test]
fn a_standing_refusal_holds_until_it_is_lifted() {
    for refusal in [Refusal::SignatureDoesNotMatch, Refusal::ExpiredToken, Refusal::PermanentRedirect("eu-west-1")] {
        let cloud = Cloud::s3();
        let store = s3(&cloud);
        cloud.refuse(Verb::Any, refusal.clone());
        wait(store.put(&Path::from("x"), "x".into())).unwrap_err();
        wait(store.head(&Path::from("x"))).unwrap_err();
        assert_eq!(cloud.keys(), [""; 0], "{refusal:?}");
        cloud.refuse(Verb::Any, None);
        wait(store.put(&Path::from("x"), "x".into())).unwrap();
    }
}

#[test]
fn a_burst_lasts_as_long_as_it_was_laid() {
    let cloud = Cloud::s3();
    cloud.burst(Verb::Put, 2, 3, Fault::Refused(Refusal::SlowDown));
    let store = s3(&cloud);
    wait(store.put(&Path::from("a"), "a".into())).unwrap();
    wait(store.put(&Path::from("b"), "b".into())).unwrap();
    assert_eq!(cloud.count(Verb::Put), 5);
    cloud.assert_every_fault_was_met();
}

#[test]
fn an_answer_is_lost_before_or_after_the_effect() {
    for (fault, stored) in [(Fault::LostBefore, false), (Fault::LostAfter, true)] {
        let cloud = Cloud::s3();
        cloud.on(Verb::Put, 1, fault.clone());
        let store = s3_at(&cloud.url()).with_retry(RetryConfig { max_retries: 0, ..quick() }).build().unwrap();
        wait(store.put_opts(&Path::from("a"), "a".into(), create())).unwrap_err();
        assert_eq!(cloud.object("a").is_some(), stored, "{fault:?}");
        cloud.assert_every_fault_was_met();
    }
}

#[test]
fn a_conflict_stores_nothing() {
    let cloud = Cloud::s3();
    cloud.on(Verb::Put, 1, Fault::Conflict);
    let error = wait(s3(&cloud).put_opts(&Path::from("a"), "a".into(), create())).unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
    assert_eq!(cloud.keys(), [""; 0]);
    cloud.assert_every_fault_was_met();
}

#[test]
fn conditions_are_ignored_once_always_or_in_races() {
    let cloud = Cloud::s3();
    let store = s3(&cloud);
    let key = Path::from("a");
    let put = |text: &'static str| wait(store.put_opts(&key, text.into(), create()));
    put("first").unwrap();
    put("second").unwrap_err();
    cloud.on(Verb::Put, 1, Fault::IgnoredCondition);
    put("third").unwrap();
    put("fourth").unwrap_err();
    cloud.conditions(Conditions::Ignored);
    put("fifth").unwrap();
    cloud.conditions(Conditions::LostInRaces);
    put("sixth").unwrap_err();
    assert_eq!(&cloud.object("a").unwrap().bytes[..], b"fifth");
    let key = Path::from("b");
    let race = wait(async {
        let both = [(); 2].map(|()| store.put_opts(&key, "x".into(), create()));
        futures_util::future::join_all(both).await
    });
    assert!(race.iter().all(Result::is_ok), "{race:?}");
    wait(store.put_opts(&key, "x".into(), create())).unwrap_err();
    cloud.assert_every_fault_was_met();
}

#[test]
fn a_body_is_cut_or_dribbles() {
    let cloud = Cloud::s3();
    let whole = noise(100_000, 3);
    cloud.plant("a", &whole);
    cloud.on(Verb::Get, 1, Fault::CutBody(60_000));
    cloud.on(Verb::Get, 3, Fault::Dribble(10_000, Duration::from_millis(1)));
    let store = s3(&cloud);
    assert_eq!(wait(bytes(&*store, "a")), whole);
    let resumed = &cloud.requests()[1];
    assert_eq!(resumed.header("range"), Some("bytes=60000-99999"), "the client goes on where it was cut");
    assert_eq!(wait(bytes(&*store, "a")), whole);
    cloud.assert_every_fault_was_met();
}

#[test]
fn a_listing_is_short_once_and_stale_for_a_while() {
    let cloud = Cloud::s3();
    for key in ["a", "b", "c"] {
        cloud.plant(key, b"x");
    }
    cloud.on(Verb::List, 1, Fault::ShortListing);
    let store = s3(&cloud);
    assert_eq!(wait(names(&*store, None)), ["a", "b"]);
    assert_eq!(wait(names(&*store, None)), ["a", "b", "c"]);
    cloud.show_after_lists(2);
    cloud.plant("d", b"x");
    let seen: Vec<usize> = (0..3).map(|_| wait(names(&*store, None)).len()).collect();
    assert_eq!(seen, [3, 3, 4]);
    cloud.assert_every_fault_was_met();
}

#[test]
fn a_proxy_answers_with_its_own_page() {
    let cloud = Cloud::s3();
    cloud.plant("a", b"x");
    let store = s3(&cloud);
    cloud.burst(Verb::Any, 1, 10, Fault::Html(502));
    wait(store.get(&Path::from("a"))).unwrap_err();
    let error = wait(store.list(None).try_collect::<Vec<_>>()).unwrap_err();
    assert!(error.to_string().contains("502"), "{error}");
    cloud.assert_every_fault_was_met();
    // With a success in its status line the client takes the page for the object, and for a listing without any.
    cloud.burst(Verb::Any, 1, 2, Fault::Html(200));
    assert!(wait(bytes(&*store, "a")).starts_with(b"<!DOCTYPE html>"));
    assert_eq!(wait(names(&*store, None)), [""; 0]);
    cloud.assert_every_fault_was_met();
}

#[test]
fn a_fault_that_was_not_met_is_told() {
    let cloud = Cloud::s3();
    cloud.plant("a", b"x");
    cloud.on(Verb::Get, 1, Fault::CutBody(60_000));
    assert_eq!(wait(bytes(&*s3(&cloud), "a")), b"x");
    let told = std::panic::catch_unwind(|| cloud.assert_every_fault_was_met());
    assert!(told.is_err());
}

#[test]
fn a_bad_line_is_as_bad_as_it_was_told() {
    let cloud = Cloud::s3();
    let whole = noise(400_000, 4);
    cloud.plant("a", &whole);
    let line = TcpProxy::to(cloud.address());
    line.on_connection(1, Fate::Refuse);
    line.on_connection(2, Fate::Cut(Direction::ToClient, 100_000));
    line.on_connection(3, Fate::Reset(Direction::ToClient, 50_000));
    line.latency(Duration::from_millis(5), Duration::from_millis(5));
    line.bytes_per_second(4_000_000);
    let store = s3_at(&line.url()).build().unwrap();
    assert_eq!(wait(bytes(&store, "a")), whole);
    assert_eq!(line.connections(), 4);
    until("the count of the last bytes", || (line.bytes(Direction::ToClient) > 400_000).then_some(()));
    line.assert_every_fate_was_met();

    line.go_down();
    let store = s3_at(&line.url()).build().unwrap();
    let error = wait(store.head(&Path::from("a"))).unwrap_err();
    assert!(format!("{error:?}").contains("Connect"), "{error:?}");
    line.come_up();
    assert_eq!(wait(store.head(&Path::from("a"))).unwrap().size, 400_000);

    line.every_connection(Fate::BlackHole);
    let store = s3_at(&line.url())
        .with_client_options(patient().with_timeout(Duration::from_millis(300)))
        .with_retry(RetryConfig { max_retries: 1, ..quick() })
        .build()
        .unwrap();
    let error = wait(store.head(&Path::from("a"))).unwrap_err();
    assert!(format!("{error:?}").contains("Timeout"), "{error:?}");
}
