//! A cloud that misbehaves: each fault ends in an exact success or in an error that names it, never in a success that is none.

use std::time::Duration;

use lifeboat::bucket::Timeouts;
use lifeboat::store::backoff::Pace;
use lifeboat::store::cloud::CloudStore;
use lifeboat::store::create_once::{Outcome, create_once_at};
use lifeboat::store::probe::{StoreMode, probe};
use lifeboat::store::retry::Retry;
use lifeboat::store::{Class, Create, Store, StoreError};

use crate::support::cloud::{Conditions, Fault, Refusal, Verb};
use crate::support::place::Place;
use crate::support::repo::noise;
use crate::support::servers;
use crate::support::tcp_proxy::{Direction, Fate, TcpProxy};
use crate::support::{key, session, told};

/// As production asks again, without its pauses.
fn quick() -> Pace {
    Pace::new(6, Duration::from_millis(1), Duration::from_millis(5))
}

fn repeated(place: &Place) -> Retry<CloudStore> {
    Retry::at(place.bare(), quick())
}

/// Both dialects: what holds for one cloud holds for the other.
fn doubles() -> [Place; 2] {
    [Place::s3(), Place::gcs()]
}

/// The key in the bucket of an object of the store.
fn stored(place: &Place, name: &str) -> Option<Vec<u8>> {
    place.cloud().object(&format!("some/where/{name}")).map(|object| object.bytes.to_vec())
}

/// What passes when it is asked again. `done` says whether the request takes effect all the same.
fn passing() -> [Fault; 9] {
    [
        Fault::Refused(Refusal::SlowDown),
        Fault::Refused(Refusal::TooManyRequests),
        Fault::Refused(Refusal::InternalError),
        Fault::Refused(Refusal::ServiceUnavailable),
        Fault::DoneThenRefused(Refusal::InternalError),
        Fault::LostBefore,
        Fault::LostAfter,
        Fault::Html(502),
        Fault::Html(503),
    ]
}

#[test]
fn what_passes_is_outlived_by_reads_listings_and_deletes() {
    let bytes = noise(50_000, 1);
    for place in doubles() {
        let store = repeated(&place);
        assert_eq!(store.create(&key("d/ab/pack"), &bytes).unwrap(), Create::Created);
        for fault in passing() {
            for verb in [Verb::Get, Verb::Head, Verb::List] {
                place.cloud().burst(verb, 1, 3, fault.clone());
            }
            assert_eq!(store.get(&key("d/ab/pack")).unwrap(), bytes, "{fault:?}");
            assert_eq!(store.size(&key("d/ab/pack")).unwrap(), Some(50_000), "{fault:?}");
            assert_eq!(store.list("d/").unwrap().len(), 1, "{fault:?}");
            place.cloud().burst(Verb::Get, 1, 3, fault.clone());
            assert_eq!(store.get_range(&key("d/ab/pack"), 7..4000).unwrap(), bytes[7..4000], "{fault:?}");
            let doomed = key("d/doomed");
            assert_eq!(store.create(&doomed, b"x").unwrap(), Create::Created);
            place.cloud().on(Verb::Any, 1, fault.clone());
            store.delete(&doomed).unwrap();
            assert_eq!(stored(&place, "d/doomed"), None, "{fault:?}");
        }
        place.cloud().assert_every_fault_was_met();
    }
}

#[test]
fn a_create_is_true_or_no_success() {
    for place in doubles() {
        let store = place.bare();
        for (number, fault) in passing().into_iter().chain([Fault::Conflict, Fault::Html(200)]).enumerate() {
            let name = format!("s/{number}");
            place.cloud().on(Verb::Put, 1, fault.clone());
            let error = store.create(&key(&name), b"ours").unwrap_err();
            let maybe = matches!(error.class, Class::Ambiguous | Class::Transient);
            assert!(maybe || (stored(&place, &name).is_none() && fault == Fault::Html(200)), "{fault:?}: {error:?}");
        }
        place.cloud().assert_every_fault_was_met();
    }
}

#[test]
fn an_object_is_created_once_whatever_happens_to_the_answers() {
    for place in doubles() {
        let store = repeated(&place);
        for (number, fault) in passing().into_iter().chain([Fault::Conflict]).enumerate() {
            for (verb, first, count) in [(Verb::Put, 1, 1), (Verb::Put, 1, 3), (Verb::Any, 1, 2), (Verb::Any, 1, 4)] {
                if fault == Fault::Conflict && verb == Verb::Any {
                    continue; // reads know no conflicts
                }
                let name = format!("s/{number}-{}-{count}", if verb == Verb::Put { "put" } else { "any" });
                place.cloud().burst(verb, first, count, fault.clone());
                let outcome = create_once_at(&store, &key(&name), b"ours", &quick()).unwrap();
                assert_eq!(outcome, Outcome::Won, "{fault:?} {name}");
                assert_eq!(stored(&place, &name).unwrap(), b"ours", "{fault:?} {name}");
                let late = create_once_at(&store, &key(&name), b"theirs", &quick()).unwrap();
                assert_eq!(late, Outcome::Lost(b"ours".to_vec()), "{fault:?} {name}");
                assert_eq!(stored(&place, &name).unwrap(), b"ours", "{fault:?} {name}");
                place.cloud().forget_faults();
            }
        }
    }
}

#[test]
fn an_upload_is_stored_whole_whatever_happens_to_the_answers() {
    let bytes = noise(300_000, 2);
    for place in doubles() {
        for (number, fault) in passing().into_iter().chain([Fault::Conflict]).enumerate() {
            let name = format!("d/{number}");
            place.cloud().burst(Verb::Put, 1, 2, fault.clone());
            let mut upload = place.open().begin(session(1), 0).unwrap();
            upload.append(&bytes).unwrap();
            // Whether it was the first attempt or the second that took effect, nobody can tell.
            let _either: Create = upload.finish(&key(&name)).unwrap();
            assert_eq!(stored(&place, &name).unwrap(), bytes, "{fault:?}");
        }
    }
}

#[test]
fn a_large_upload_in_parts_is_stored_whole_or_not_at_all() {
    let bytes = noise((64 << 20) + 1, 3);
    for place in doubles() {
        let mut faults = vec![(Verb::Part, Fault::LostBefore), (Verb::Complete, Fault::LostAfter)];
        // The ways of the two are the same; one of them is walked to its end.
        if place.url.starts_with("s3:") {
            faults.extend([
                (Verb::Begin, Fault::Refused(Refusal::SlowDown)),
                (Verb::Complete, Fault::LostBefore),
                (Verb::Complete, Fault::DoneThenRefused(Refusal::InternalError)),
                (Verb::Complete, Fault::RefusedInside200(Refusal::InternalError)),
            ]);
        }
        for (number, (verb, fault)) in faults.into_iter().enumerate() {
            let name = format!("d/{number}");
            place.cloud().on(verb, 1, fault.clone());
            let mut upload = place.open().begin(session(1), 0).unwrap();
            for piece in bytes.chunks(4 << 20) {
                upload.append(piece).unwrap();
            }
            match upload.finish(&key(&name)) {
                Ok(_) => assert!(stored(&place, &name).unwrap() == bytes, "{verb:?} {fault:?}"),
                // The client knows no such answer.
                Err(error) if matches!(fault, Fault::RefusedInside200(_)) => {
                    assert!(stored(&place, &name).is_none() && told(&error).contains("InternalError"), "{error:?}");
                }
                Err(error) => panic!("{verb:?} {fault:?}: {}", told(&error)),
            }
        }
        place.cloud().assert_every_fault_was_met();
    }
}

#[test]
fn a_body_that_is_cut_or_comes_in_drops_is_read_whole() {
    let bytes = noise(90_000, 4);
    for place in doubles() {
        let store = repeated(&place);
        assert_eq!(store.create(&key("x"), &bytes).unwrap(), Create::Created);
        for at in [0, 1, 45_000, 89_999] {
            place.cloud().burst(Verb::Get, 1, 2, Fault::CutBody(at));
            assert_eq!(store.get(&key("x")).unwrap(), bytes, "cut at {at}");
            place.cloud().on(Verb::Get, 1, Fault::CutBody(at.min(8999)));
            assert_eq!(store.get_range(&key("x"), 1000..10_000).unwrap(), bytes[1000..10_000], "cut at {at}");
        }
        place.cloud().on(Verb::Get, 1, Fault::Dribble(1000, Duration::from_millis(1)));
        assert_eq!(store.get(&key("x")).unwrap(), bytes);
        place.cloud().on(Verb::List, 1, Fault::CutBody(200));
        assert_eq!(store.list("").unwrap().len(), 1);
        place.cloud().on(Verb::List, 1, Fault::Dribble(50, Duration::from_millis(1)));
        assert_eq!(store.list("").unwrap().len(), 1);
        place.cloud().assert_every_fault_was_met();
    }
}

#[test]
fn a_body_that_stalls_is_asked_for_again() {
    let place = Place::s3();
    let mut options = place.options();
    options.timeouts = Timeouts { read: Duration::from_millis(300), ..options.timeouts };
    let store = Retry::at(place.bare_with(&options), quick());
    let bytes = noise(90_000, 5);
    assert_eq!(store.create(&key("x"), &bytes).unwrap(), Create::Created);
    place.cloud().on(Verb::Get, 1, Fault::Dribble(1000, Duration::from_secs(3600)));
    assert_eq!(store.get(&key("x")).unwrap(), bytes);
    place.cloud().assert_every_fault_was_met();
}

#[test]
fn a_whole_object_in_place_of_a_range_is_no_answer() {
    for place in doubles() {
        let store = place.bare();
        assert_eq!(store.create(&key("x"), &noise(9000, 6)).unwrap(), Create::Created);
        place.cloud().on(Verb::Get, 1, Fault::IgnoredRange);
        store.get_range(&key("x"), 10..20).unwrap_err();
        place.cloud().assert_every_fault_was_met();
    }
}

#[test]
fn a_listing_in_many_pages_is_whole_whichever_page_breaks() {
    for place in doubles() {
        place.cloud().page_keys(7);
        let store = repeated(&place);
        for n in 0..50 {
            place.cloud().plant(&format!("some/where/l/{n:02}"), b"x");
        }
        place.cloud().plant("some/wherever/else", b"x");
        assert_eq!(store.list("").unwrap().len(), 50);
        assert_eq!(store.list("l/1").unwrap().len(), 10);
        for page in 1..=8 {
            place.cloud().on(Verb::List, page, Fault::LostBefore);
            assert_eq!(store.list("").unwrap().len(), 50, "page {page}");
        }
        place.cloud().assert_every_fault_was_met();
    }
}

#[test]
fn a_page_of_a_proxy_is_never_taken_for_the_stores_answer() {
    for place in doubles() {
        let store = place.bare();
        assert_eq!(store.create(&key("x"), b"bytes").unwrap(), Create::Created);
        place.cloud().burst(Verb::Any, 1, 5, Fault::Html(200));
        let errors = [
            store.list("").unwrap_err(),
            store.get(&key("x")).unwrap_err(),
            store.size(&key("x")).unwrap_err(),
            store.create(&key("y"), b"bytes").unwrap_err(),
            store.create(&key("x"), b"other").unwrap_err(),
        ];
        for error in errors {
            assert!(told(&error).contains("a web page came back instead of the store's answer"), "{}", told(&error));
            assert!(error.hint().unwrap().contains("proxy"), "{error:?}");
        }
        place.cloud().assert_every_fault_was_met();
        assert_eq!(stored(&place, "x").unwrap(), b"bytes");
    }
}

fn single_writer(place: &Place) -> String {
    match probe(&*place.open()).unwrap().mode {
        StoreMode::SingleWriter { reason } => reason,
        StoreMode::MultiWriter => panic!("the probe believes it"),
    }
}

#[test]
fn the_probe_finds_out_a_store_that_breaks_its_promise() {
    for conditions in [Conditions::Ignored, Conditions::LostInRaces, Conditions::NotImplemented] {
        for place in doubles() {
            place.cloud().conditions(conditions);
            let reason = single_writer(&place);
            let expected = match conditions {
                Conditions::Ignored => "it accepts a create over an object that exists",
                _ => "creates that raced for one key",
            };
            assert!(reason.contains(expected), "{conditions:?}: {reason}");
        }
    }
    for place in doubles() {
        place.cloud().show_after_lists(1);
        assert!(single_writer(&place).contains("does not show an object that was just created"));
    }
    let place = Place::s3();
    place.cloud().on(Verb::List, 1, Fault::ShortListing);
    assert!(single_writer(&place).contains("does not show an object that was just created"));
    place.cloud().assert_every_fault_was_met();
    let place = Place::s3();
    place.cloud().on(Verb::Put, 2, Fault::IgnoredCondition);
    assert!(single_writer(&place).contains("it accepts a create over an object that exists"));
    place.cloud().assert_every_fault_was_met();
}

#[test]
fn the_probe_believes_an_honest_store_on_a_bad_day() {
    for place in doubles() {
        place.cloud().on(Verb::Put, 1, Fault::LostAfter);
        place.cloud().on(Verb::Put, 5, Fault::LostAfter);
        place.cloud().burst(Verb::List, 1, 2, Fault::Refused(Refusal::SlowDown));
        place.cloud().burst(Verb::Get, 1, 2, Fault::LostBefore);
        assert_eq!(probe(&*place.open()).unwrap().mode, StoreMode::MultiWriter);
        place.cloud().assert_every_fault_was_met();
    }
}

/// A refusal, the class of the error, and words that a person needs.
fn refusals() -> Vec<(Refusal, Class, &'static str)> {
    vec![
        (Refusal::SignatureDoesNotMatch, Class::Denied, "the secret key is wrong"),
        (Refusal::InvalidAccessKeyId, Class::Denied, "does not know the access key"),
        (Refusal::ExpiredToken, Class::Denied, "the credentials have expired"),
        (Refusal::RequestTimeTooSkewed, Class::Denied, "this machine's clock is 3 hours ahead of the store's"),
        (Refusal::AccessDenied, Class::Denied, "the store does not allow it"),
        (Refusal::AuthenticationRequired, Class::Denied, "does not know the access key"),
        (Refusal::PermanentRedirect("eu-west-1"), Class::Permanent, "the bucket is in the region eu-west-1"),
        (Refusal::AuthorizationHeaderMalformed("eu-west-1"), Class::Permanent, "the bucket is in the region eu-west-1"),
        (Refusal::NoSuchBucket, Class::Permanent, "there is no bucket double"),
        (Refusal::QuotaExceeded, Class::Full, "no space left"),
        (Refusal::InsufficientStorage, Class::Full, "no space left"),
        (Refusal::InvalidObjectState, Class::Permanent, "in an archive"),
    ]
}

#[test]
fn each_refusal_is_named_plainly_and_tried_once() {
    for (refusal, class, words) in refusals() {
        for place in doubles() {
            let store = repeated(&place);
            place.cloud().refuse(Verb::Any, refusal.clone());
            let errors: [StoreError; 4] = [
                store.create(&key("x"), b"x").unwrap_err(),
                store.get(&key("x")).unwrap_err(),
                store.list("").unwrap_err(),
                store.delete(&key("x")).unwrap_err(),
            ];
            for error in errors {
                assert!(told(&error).contains(words), "{refusal:?}: {}", told(&error));
                assert_eq!(error.class, class, "{refusal:?}: {error:?}");
                assert!(error.hint().is_some(), "{refusal:?}");
                assert!(!told(&error).contains("dummy"), "{}", told(&error));
            }
            assert_eq!(place.cloud().count(Verb::Any), 4, "{refusal:?}: asking again does not help");
        }
    }
}

#[test]
fn a_refusal_without_a_body_is_no_absence() {
    // What answers a HEAD has no body, so a missing bucket looks like a missing object there, and a stale signature like a missing right.
    for (refusal, class, _) in refusals() {
        if matches!(refusal, Refusal::NoSuchBucket) {
            continue;
        }
        let place = Place::s3();
        place.cloud().refuse(Verb::Any, refusal.clone());
        let error = place.bare().size(&key("x")).unwrap_err();
        let plain = class == error.class || matches!(refusal, Refusal::ExpiredToken | Refusal::QuotaExceeded);
        assert!(plain || refusal == Refusal::InvalidObjectState, "{refusal:?}: {error:?}");
    }
}

#[test]
fn a_bucket_in_another_region_or_of_another_name_is_told() {
    let place = Place::s3();
    place.cloud().region("ap-south-1");
    let error = place.open().list("").unwrap_err();
    assert!(told(&error).contains("the bucket is in the region ap-south-1"), "{}", told(&error));
    let mut place = Place::s3();
    place.url = "s3://elsewhere/x".to_owned();
    let error = place.open().list("").unwrap_err();
    assert!(told(&error).contains("there is no bucket elsewhere"), "{}", told(&error));
}

#[test]
fn a_folder_that_a_console_made_is_no_object() {
    for place in doubles() {
        place.cloud().plant("some/where/", b"");
        let store = place.bare();
        assert_eq!(store.list("").unwrap(), []);
        assert_eq!(store.create(&key("x"), b"x").unwrap(), Create::Created);
        assert_eq!(store.list("").unwrap().len(), 1);
    }
}

#[test]
fn a_class_of_storage_is_asked_for_by_packs_of_data_only() {
    for (place, header) in doubles().into_iter().zip(["x-amz-storage-class", "x-goog-storage-class"]) {
        let mut options = place.options();
        options.classes.data = Some("NEARLINE".to_owned());
        let store = place.bare_with(&options);
        for name in ["d/ab/pack", "m/ab/pack", "w/x"] {
            assert_eq!(store.create(&key(name), b"x").unwrap(), Create::Created);
        }
        let sent: Vec<_> = place.cloud().requests().iter().map(|put| put.header(header).map(str::to_owned)).collect();
        assert_eq!(sent, [Some("NEARLINE".to_owned()), None, None]);
    }
}

#[test]
fn a_bad_line_is_outlived() {
    let double = Place::s3();
    let line = TcpProxy::to(double.cloud().address());
    let place = Place::on_s3(double.cloud()).by(&line.url());
    let store = repeated(&place);
    let bytes = noise(400_000, 7);
    line.latency(Duration::from_millis(3), Duration::from_millis(3));
    line.on_connection(1, Fate::Refuse);
    line.on_connection(2, Fate::Cut(Direction::ToServer, 100_000));
    line.on_connection(3, Fate::Reset(Direction::ToServer, 300_000));
    assert_eq!(create_once_at(&store, &key("x"), &bytes, &quick()).unwrap(), Outcome::Won);
    line.assert_every_fate_was_met();

    // Connections that are kept for the next request are cut with the rest.
    line.go_down();
    line.come_up();
    line.on_connection(1, Fate::Cut(Direction::ToClient, 100_000));
    line.on_connection(2, Fate::Reset(Direction::ToClient, 200));
    assert_eq!(store.get(&key("x")).unwrap(), bytes);
    line.assert_every_fate_was_met();

    line.go_down();
    let error = store.get(&key("x")).unwrap_err();
    assert!(told(&error).contains("no answer: Connection refused"), "{}", told(&error));
    assert_eq!(error.class, Class::Transient);
}

#[test]
fn azure_on_a_bad_line_stores_once_and_reads_whole() {
    let line = TcpProxy::to(servers::azurite().address);
    let place = Place::azurite().by(&line.url());
    let store = repeated(&place);
    let bytes = noise(400_000, 8);
    line.on_connection(1, Fate::Refuse);
    line.on_connection(2, Fate::Cut(Direction::ToServer, 100_000));
    line.on_connection(3, Fate::Cut(Direction::ToClient, 20)); // it is stored, and the answer is lost
    assert_eq!(create_once_at(&store, &key("x"), &bytes, &quick()).unwrap(), Outcome::Won);
    line.assert_every_fate_was_met();
    assert_eq!(create_once_at(&store, &key("x"), b"theirs", &quick()).unwrap(), Outcome::Lost(bytes.clone()));
    line.go_down();
    line.come_up();
    line.on_connection(1, Fate::Cut(Direction::ToClient, 100_000));
    line.on_connection(2, Fate::Reset(Direction::ToClient, 200));
    assert_eq!(store.get(&key("x")).unwrap(), bytes);
    line.assert_every_fate_was_met();
    assert_eq!(store.list("").unwrap().len(), 1);
}

#[test]
fn a_silent_server_is_given_up() {
    let double = Place::s3();
    let line = TcpProxy::to(double.cloud().address());
    let place = Place::on_s3(double.cloud()).by(&line.url());
    line.every_connection(Fate::BlackHole);
    let mut options = place.options();
    let soon = Duration::from_millis(300);
    options.timeouts = Timeouts { connect: soon, read: soon, request: soon };
    let error = place.bare_with(&options).get(&key("x")).unwrap_err();
    assert!(told(&error).contains("no answer"), "{}", told(&error));
    assert!(matches!(error.class, Class::Ambiguous | Class::Transient));
}
