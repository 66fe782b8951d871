//! Action × object × reader: whatever happens to an object of a repository, `verify` finds it and names it.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use lifeboat::names::ObjectKey;
use lifeboat::pack::container::{FOOTER_BYTES, PackKind};
use lifeboat::pack::keys::{self, Meaning};
use lifeboat::repository::{Index, Repository, Scope};
use lifeboat::seal::key::Key;
use lifeboat::store::{Class, Store};
use lifeboat::verify::{self, Control, Finding, Level, Report, Request, Sample, Severity};
use proptest::prelude::*;

use crate::support::faulty::{Fault, FaultyStore, Verb};
use crate::support::small::{Changed, Small, kind, small, writer_of};

static SMALL: LazyLock<Small> = LazyLock::new(small);
static OTHER: LazyLock<Small> = LazyLock::new(small);

/// What a check says of a store: its report, or why the repository does not even open.
fn look(store: Arc<dyn Store>, key: &str, level: Level) -> Result<Report, String> {
    let repository = Repository::open(store, Key::from_text(key).unwrap()).map_err(|error| error.to_string())?;
    let request = Request { level, workers: 1, ..Request::default() };
    Ok(verify::run(&repository, &request, &Control::default()).unwrap())
}

fn changed(key: &ObjectKey, bytes: Option<Vec<u8>>) -> Arc<dyn Store> {
    Arc::new(Changed { objects: SMALL.objects.clone(), key: key.clone(), bytes })
}

fn damage(report: &Report) -> Vec<&Finding> {
    report.findings.iter().filter(|finding| finding.severity == Severity::Damage).collect()
}

/// Whether the damage is told at the object itself.
fn names(seen: &Result<Report, String>, key: &ObjectKey) -> bool {
    match seen {
        Ok(report) => damage(report).iter().any(|finding| finding.object == key.as_str()),
        // A config that names another repository is no more than that: whose it was cannot be told.
        Err(refusal) => {
            refusal.contains(key.as_str()) || (kind(key) == "config" && refusal.contains("the key belongs to"))
        }
    }
}

/// Runs `each` for every case on all cores, and returns those that it does not hold for.
fn failing<T: Sync>(cases: &[T], each: impl Fn(&T) -> bool + Sync) -> Vec<&T> {
    let next = AtomicUsize::new(0);
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let work = || {
            let mut failed = Vec::new();
            while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                if !each(case) {
                    failed.push(case);
                }
            }
            failed
        };
        let crew: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        crew.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

fn flipped(key: &ObjectKey, at: usize) -> Option<Vec<u8>> {
    let mut bytes = SMALL.objects[key].clone();
    bytes[at] ^= 1 << (at % 8);
    Some(bytes)
}

fn spread(len: usize, count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).map(|n| n * (len - 1) / (count - 1).max(1)).collect();
    places.dedup();
    places
}

#[test]
fn a_clean_repository_gives_no_finding_at_any_level_and_to_any_key() {
    for (role, key) in [("admin", &SMALL.admin_key), ("writer", &SMALL.writer_key)] {
        for level in [Level::Structure, Level::Metadata, Level::Data] {
            let report = look(Arc::new(Changed::nothing(&SMALL.objects)), key, level).unwrap();
            assert!(report.findings.is_empty(), "{role}, {level:?}: {:#?}", report.findings);
            assert_eq!((report.objects, report.snapshots), (SMALL.objects.len() as u64, 11), "{role}, {level:?}");
            if role == "admin" {
                assert_eq!((report.unreferenced_packs, report.notes.len()), (0, 0), "{:?}", report.notes);
                assert_eq!(report.nodes > 0, level >= Level::Metadata);
                assert_eq!(report.chunks_checked > 150, level == Level::Data, "{}", report.chunks_checked);
                assert_eq!(report.packs_read == report.packs, level == Level::Data);
            }
        }
    }
}

#[test]
fn every_byte_of_every_small_object_counts() {
    let large = |key: &ObjectKey| kind(key).ends_with("pack") || matches!(kind(key), "delta" | "segment");
    let mut kinds = HashSet::new();
    let small = SMALL.objects.keys().filter(|key| !large(key) && kinds.insert(kind(key)));
    // Without a config nothing opens, and a certificate checks others. The rest stand for themselves, so one run looks at one byte of each.
    let (certificate, small): (Vec<_>, Vec<_>) = small.partition(|key| kind(key) == "certificate");
    let (config, others): (Vec<_>, Vec<_>) = small.into_iter().partition(|key| kind(key) == "config");
    assert_eq!((certificate.len(), config.len(), others.len()), (1, 1, 7));
    let longest = others.iter().map(|key| SMALL.objects[*key].len()).max().unwrap();
    let places = |keys, len| (0..len).map(move |at| (keys, at));
    let alone = [&config, &certificate].into_iter().flat_map(|keys| places(keys, SMALL.objects[keys[0]].len()));
    let cases: Vec<(&Vec<&ObjectKey>, usize)> = alone.chain(places(&others, longest)).collect();
    let missed = failing(&cases, |(keys, at)| {
        let keys: Vec<_> = keys.iter().filter(|key| *at < SMALL.objects[**key].len()).collect();
        let mut objects = BTreeMap::clone(&SMALL.objects);
        objects.extend(keys.iter().filter_map(|key| Some(((**key).clone(), flipped(key, *at)?))));
        let store = Arc::new(Changed::nothing(&Arc::new(objects)));
        let seen = look(store, &SMALL.admin_key, Level::Structure);
        keys.iter().all(|key| names(&seen, key))
    });
    assert!(
        missed.is_empty(),
        "{} of {} missed: {:?}",
        missed.len(),
        cases.len(),
        missed.iter().map(|m| m.1).take(9).collect::<Vec<_>>()
    );
}

#[test]
fn a_bit_flipped_in_any_object_is_found_and_named() {
    let mut kinds = HashSet::new();
    let mut cases = Vec::new();
    for (key, bytes) in SMALL.objects.iter() {
        // Every place costs a whole verification: `LIFEBOAT_TEST_LONG=1` looks at more of them.
        let (first, others) = if std::env::var_os("LIFEBOAT_TEST_LONG").is_some() { (64, 12) } else { (16, 2) };
        let count = if kinds.insert(kind(key)) { first } else { others };
        cases.extend(spread(bytes.len(), count).into_iter().map(|at| (key, at)));
        if let Some(Meaning::Pack(pack, _)) = keys::parse(key) {
            let head = pack.head_bytes();
            let ends = [0, 8, 10, 16, 32, 40, 72, 200, head - 1, head, bytes.len() - FOOTER_BYTES - 1, bytes.len() - 1];
            cases.extend(ends.map(|at| (key, at)));
        }
    }
    let missed =
        failing(&cases, |(key, at)| names(&look(changed(key, flipped(key, *at)), &SMALL.admin_key, Level::Data), key));
    assert!(missed.is_empty(), "{} of {} missed: {:?}", missed.len(), cases.len(), &missed[..missed.len().min(9)]);
}

#[test]
fn a_writer_finds_a_flipped_bit_in_data_that_it_cannot_read() {
    let packs: Vec<_> = SMALL.objects.keys().filter(|key| kind(key).ends_with("pack")).collect();
    let missed = failing(&packs, |key| {
        let at = SMALL.objects[*key].len() / 2;
        let seen = look(changed(key, flipped(key, at)), &SMALL.writer_key, Level::Data);
        let told = seen.as_ref().is_ok_and(|report| report.notes.iter().any(|note| note.contains("not decrypted")));
        names(&seen, key) && told
    });
    assert!(missed.is_empty(), "{missed:?}");
}

#[test]
fn an_object_cut_short_is_found_and_named() {
    let lengths = |len: usize| [0, 1, len / 2, len - 1];
    let cases: Vec<_> = SMALL.objects.iter().flat_map(|(key, b)| lengths(b.len()).map(|len| (key, len))).collect();
    let missed = failing(&cases, |(key, len)| {
        let bytes = SMALL.objects[*key][..*len].to_vec();
        names(&look(changed(key, Some(bytes)), &SMALL.admin_key, Level::Data), key)
    });
    assert!(missed.is_empty(), "{missed:?}");
}

#[test]
fn an_object_that_others_name_is_missed_when_it_is_gone() {
    let admin = Repository::open(Arc::new(Changed::nothing(&SMALL.objects)), Key::from_text(&SMALL.admin_key).unwrap());
    let index = Index::load(&admin.unwrap(), Scope::Read, &mut |error| panic!("{error}")).unwrap();
    let replaced: HashSet<ObjectKey> =
        index.runs().iter().flat_map(|run| run.replaced()).map(|n| keys::run(*n)).collect();
    assert_eq!(replaced.len(), 8);
    let cases: Vec<_> = SMALL.objects.keys().collect();
    let wrong = failing(&cases, |key| {
        let seen = look(changed(key, None), &SMALL.admin_key, Level::Metadata);
        match kind(key) {
            "config" => seen.is_err_and(|refusal| refusal.contains("no Lifeboat repository")),
            // Nothing names these, or nothing needs them any more.
            "slot" | "probe" | "fence" | "session record" | "revocation" => seen.is_ok_and(|report| report.is_sound()),
            // The last one on a snapshot is named by none: the decision before it counts.
            "mark" if key.as_str().ends_with("-00000001") => seen.is_ok_and(|report| report.is_sound()),
            "delta" if replaced.contains(*key) => seen.is_ok_and(|report| report.is_sound()),
            _ => names(&seen, key),
        }
    });
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn an_object_in_the_place_of_another_is_found_and_named() {
    let mut cases = Vec::new();
    for key in SMALL.objects.keys() {
        let same = |other: &&ObjectKey| kind(other) == kind(key);
        cases.extend(
            SMALL.objects.keys().filter(|other| *other != key).find(same).map(|other| (key, &SMALL.objects[other])),
        );
        cases.extend(OTHER.objects.keys().find(same).map(|other| (key, &OTHER.objects[other])));
    }
    let alone = ["config", "slot", "fence", "probe", "revocation", "session record", "segment"];
    assert!(cases.len() >= 2 * SMALL.objects.len() - alone.len());
    // A probe's name is drawn, and the test's is the same in both.
    cases.retain(|(key, bytes)| SMALL.objects[*key] != **bytes);
    let missed = failing(&cases, |(key, bytes)| {
        names(&look(changed(key, Some(bytes.to_vec())), &SMALL.admin_key, Level::Data), key)
    });
    assert!(missed.is_empty(), "{:?}", missed.iter().map(|(key, _)| key).collect::<Vec<_>>());
}

#[test]
fn an_object_of_another_repository_is_found_under_its_own_name() {
    for wanted in ["slot", "data pack", "metadata pack", "delta", "manifest", "certificate"] {
        let (key, bytes) = OTHER.objects.iter().find(|(key, _)| kind(key) == wanted).unwrap();
        let seen = look(changed(key, Some(bytes.clone())), &SMALL.admin_key, Level::Data);
        match writer_of(key).filter(|_| wanted == "delta") {
            // Its writer has no certificate here, so that is what is missing.
            Some(writer) => assert!(names(&seen, &keys::certificate(writer)), "{wanted}"),
            None => assert!(names(&seen, key), "{wanted}"),
        }
    }
}

#[test]
fn a_lost_pack_names_the_files_and_snapshots_that_need_it_and_no_others() {
    let largest =
        SMALL.objects.iter().filter(|(key, _)| kind(key) == "data pack").max_by_key(|(_, b)| b.len()).unwrap().0;
    for level in [Level::Structure, Level::Metadata, Level::Data] {
        let report = look(changed(largest, None), &SMALL.admin_key, level).unwrap();
        let [finding] = damage(&report)[..] else { panic!("{:?}", report.findings) };
        assert_eq!(finding.snapshots.len(), 9, "nine snapshots hold the image");
        assert!(finding.paths.iter().all(|path| path.contains("/tree/")), "{:?}", finding.paths);
    }
}

#[test]
fn damage_in_a_table_costs_no_file() {
    for (key, bytes) in SMALL.objects.iter().filter(|(key, _)| kind(key) == "data pack") {
        let footer = &bytes[bytes.len() - FOOTER_BYTES..];
        let table = u64::from_le_bytes(footer[..8].try_into().unwrap()) as usize;
        let report = look(changed(key, flipped(key, table)), &SMALL.admin_key, Level::Data).unwrap();
        let [finding] = damage(&report)[..] else { panic!("{:?}", report.findings) };
        assert!(finding.paths.is_empty() && finding.snapshots.is_empty(), "{finding}");
        let report = look(changed(key, flipped(key, table - 1)), &SMALL.admin_key, Level::Data).unwrap();
        assert!(!damage(&report)[0].paths.is_empty(), "the last frame is some file's");
    }
}

#[test]
fn a_stranger_is_a_warning_and_leftovers_are_nothing() {
    for (text, warnings) in [("lost/and-found", 1), ("d/00/short", 1), ("tmp/0123-4", 0)] {
        let report = look(changed(&text.parse().unwrap(), Some(vec![1])), &SMALL.admin_key, Level::Data).unwrap();
        assert!(report.is_sound());
        assert_eq!(report.findings.len(), warnings, "{text}: {:?}", report.findings);
    }
}

#[test]
fn structure_reads_no_pack_but_its_end() {
    let report = look(Arc::new(Changed::nothing(&SMALL.objects)), &SMALL.admin_key, Level::Structure).unwrap();
    let packs = |key: &ObjectKey| kind(key).ends_with("pack");
    let small: usize = SMALL.objects.iter().filter(|(key, _)| !packs(key)).map(|(_, bytes)| bytes.len()).sum();
    let ends = SMALL.objects.keys().filter(|key| packs(key)).count() * FOOTER_BYTES;
    let manifests =
        SMALL.objects.iter().filter(|(key, _)| kind(key) == "manifest").map(|(_, b)| b.len()).max().unwrap();
    // The manifest of a revoked writer is read twice: for itself, and for the hash that lets it stand.
    assert!(report.bytes_read <= (small + ends + manifests) as u64, "{}", report.bytes_read);
    assert!(report.bytes_read >= (small + ends) as u64);
}

#[test]
fn a_sample_tells_what_it_proves_and_can_be_drawn_again() {
    let open = || {
        let store = Arc::new(Changed::nothing(&SMALL.objects));
        Repository::open(store, Key::from_text(&SMALL.admin_key).unwrap()).unwrap()
    };
    let draw = |sample, seed| {
        let request = Request { level: Level::Data, sample: Some(sample), seed, workers: 2 };
        verify::run(&open(), &request, &Control::default())
    };
    let report = draw(Sample::Count(3), Some(7)).unwrap();
    let sampled = report.sampled.clone().unwrap();
    assert_eq!((sampled.packs, sampled.packs_of, sampled.packs_damaged, sampled.seed), (3, report.packs, 0, 7));
    assert!(sampled.statement.starts_with("0 of 3 sampled packs are damaged: with 95 % confidence at most 100.000 %"));
    assert_eq!(draw(Sample::Count(3), Some(7)).unwrap().chunks_checked, report.chunks_checked);
    assert!(draw(Sample::Percent(0.0), None).is_err());
    let request = Request { sample: Some(Sample::Count(1)), ..Request::default() };
    assert!(matches!(verify::run(&open(), &request, &Control::default()), Err(verify::Error::SampleWithoutData(_))));
}

#[test]
fn a_store_that_fails_ends_the_check_and_is_no_damage() {
    for verb in [Verb::List, Verb::Get, Verb::GetRange] {
        let store =
            FaultyStore::over(Changed::nothing(&SMALL.objects)).on(verb, 3, Fault::FailBefore(Class::Transient));
        let seen = Repository::open(Arc::new(store), Key::from_text(&SMALL.admin_key).unwrap())
            .map_err(verify::Error::from)
            .and_then(|repository| {
                let request = Request { level: Level::Data, ..Request::default() };
                verify::run(&repository, &request, &Control::default())
            });
        assert!(matches!(seen, Err(verify::Error::Repository(lifeboat::repository::Error::Store(_)))), "{verb:?}");
    }
}

#[test]
fn a_cancelled_check_says_so() {
    let store = Arc::new(Changed::nothing(&SMALL.objects));
    let repository = Repository::open(store, Key::from_text(&SMALL.admin_key).unwrap()).unwrap();
    let control = Control::default();
    control.cancel.store(true, Ordering::Relaxed);
    assert!(matches!(verify::run(&repository, &Request::default(), &control), Err(verify::Error::Cancelled)));
}

#[test]
fn a_report_is_json_that_a_script_can_read() {
    let key =
        SMALL.objects.keys().find(|key| matches!(keys::parse(key), Some(Meaning::Pack(PackKind::Data, _)))).unwrap();
    let report = look(changed(key, flipped(key, SMALL.objects[key].len() / 2)), &SMALL.admin_key, Level::Data).unwrap();
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["level"], "data");
    assert_eq!(json["findings"][0]["severity"], "damage");
    assert_eq!(json["findings"][0]["object"], key.as_str());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 0, ..ProptestConfig::default() })]
    #[test]
    fn random_bytes_in_place_of_any_object_are_found_without_a_panic(
        at in any::<prop::sample::Index>(),
        keep in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 0..3000),
        whole in any::<bool>(),
    ) {
        let (key, real) = at.get(&SMALL.objects.iter().collect::<Vec<_>>()).to_owned();
        // All random, or a good beginning and a random end.
        let kept = if whole { 0 } else { keep.index(real.len()) };
        let bytes = [&real[..kept], &bytes[..]].concat();
        prop_assume!(bytes != *real);
        prop_assert!(names(&look(changed(key, Some(bytes)), &SMALL.admin_key, Level::Data), key));
    }
}
