//! How hard content is compressed, as people ask for it.

use std::fs;

use serde_json::{Value, json};

use crate::cli::{Desk, configure};
use crate::support::repo::noise;

/// Two MiB of lines of one form, none twice, and a file of noise.
fn desk() -> (Desk, Vec<u8>) {
    let desk = Desk::with_repository();
    let dice = noise(90_000, 1);
    let line = |dice: &[u8]| {
        format!("user {} asked for /shelf/{}/book/{} and was given it\n", dice[0] % 50, dice[1], dice[2] % 90)
    };
    let words: Vec<u8> =
        dice.chunks(3).enumerate().flat_map(|(n, dice)| format!("{n}: {}", line(dice)).into_bytes()).collect();
    fs::write(desk.path("source/words.txt"), &words).unwrap();
    fs::write(desk.path("source/noise.bin"), noise(1 << 20, 2)).unwrap();
    (desk, words)
}

fn asked(arguments: &[&str]) -> (Value, Vec<u8>) {
    let (desk, words) = desk();
    // One worker: frames are then the same in every run.
    let document = desk.json(["backup", "source", "--json", "--workers=1"].iter().chain(arguments));
    let source = format!("latest:{}", desk.path("source").display());
    desk.good(["restore", &source, "--to", "out", "--verify"]);
    assert!(fs::read(desk.path("out/words.txt")).unwrap() == words, "{arguments:?}");
    desk.good(["verify", "--level", "data"]);
    (document, words)
}

#[test]
fn each_level_stores_what_comes_back_and_says_what_it_did() {
    let mut sizes = Vec::new();
    for (arguments, name, level) in [
        (&["--compression", "off"][..], "off", None),
        (&["--compression", "fast"], "fast", Some(1)),
        (&[], "auto", Some(3)),
        (&["--compression", "auto"], "auto", Some(3)),
        (&["--compression=8"], "8", Some(8)),
        (&["--compression=19"], "19", Some(19)),
    ] {
        let (document, words) = asked(arguments);
        let compression = &document["compression"];
        assert_eq!(compression["asked"], name);
        let levels: Vec<&Value> = compression["levels"].as_array().unwrap().iter().map(|used| &used["level"]).collect();
        assert_eq!(json!(levels), json!(level.into_iter().collect::<Vec<_>>()), "{document}");
        let sum: u64 =
            compression["levels"].as_array().unwrap().iter().map(|used| used["bytes"].as_u64().unwrap()).sum();
        let raw = compression["raw_bytes"].as_u64().unwrap();
        assert_eq!(sum + raw, document["new_bytes"].as_u64().unwrap(), "{document}");
        match level {
            None => assert_eq!(sum, 0, "{document}"),
            Some(_) => assert!(sum >= words.len() as u64, "{document}"),
        }
        sizes.push(document["stored_bytes"].as_u64().unwrap());
    }
    let [off, fast, standard, auto, eight, nineteen] = sizes[..] else { panic!("{sizes:?}") };
    assert!(off > 2 * fast && fast > nineteen && standard > eight && eight > nineteen, "{sizes:?}");
    // But for the metadata, whose times differ.
    assert!(standard.abs_diff(auto) < standard / 100, "{sizes:?}");
}

#[test]
fn what_there_is_not_is_a_mistake_of_usage_that_names_what_there_is() {
    let (desk, _) = desk();
    for wrong in ["max", "0", "20", "-1", "3.5", "", "zstd:3"] {
        let ended = desk.run(["backup", "source", &format!("--compression={wrong}")]);
        ended.refused(2, "auto, fast, off, or 1 to 19");
    }
    assert_eq!(desk.json(["snapshots", "--json"]), json!([]));
}

#[test]
fn a_stream_is_compressed_as_asked() {
    let desk = Desk::with_repository();
    let text = "to be or not to be ".repeat(50_000);
    for (how, compressed) in [("off", 0), ("19", text.len())] {
        let input = format!("{text}{how}");
        let ended = desk.with_input(["backup", "-", "--json", "--stdin-name", how, "--compression", how], &input);
        assert_eq!(ended.code, 0, "{ended:?}");
        let document: Value = serde_json::from_str(&ended.out).unwrap();
        let levels = document["compression"]["levels"].as_array().unwrap();
        let sum: u64 = levels.iter().map(|used| used["bytes"].as_u64().unwrap()).sum();
        assert!(sum as usize >= compressed && (how != "off" || sum == 0), "{document}");
        assert_eq!(desk.good(["dump", &format!("latest:/{how}")]), input);
    }
}

#[test]
fn verbose_names_the_levels_and_quiet_and_usual_runs_do_not() {
    let (desk, _) = desk();
    assert!(!desk.good(["backup", "source"]).contains("packed"));
    fs::write(desk.path("source/more.txt"), "more and more ".repeat(1000)).unwrap();
    let lines = desk.good(["-v", "backup", "source", "--compression", "fast"]);
    assert!(
        lines.contains("packed   ") && lines.contains(" at level 1") && lines.contains("(compression fast)"),
        "{lines}"
    );
    let lines = desk.good(["-v", "backup", "source"]);
    assert!(lines.contains("packed   nothing (compression auto)"), "{lines}");
}

#[test]
fn a_policy_chooses_and_the_configuration_shows_it() {
    let desk = Desk::with_repository();
    configure(&desk, "daily 02:30");
    let show = || desk.json(["config", "show", "web", "--json", "--config", "etc"])["compression"].clone();
    assert_eq!(show(), "auto");
    let policy = fs::read_to_string(desk.path("etc/policies/web.toml")).unwrap();
    for (line, shown) in [("compression = 12", "12"), ("compression = \"off\"", "off")] {
        fs::write(desk.path("etc/policies/web.toml"), format!("{policy}{line}\n")).unwrap();
        assert_eq!(show(), shown);
        let page = desk.good(["config", "show", "web", "--config", "etc"]);
        assert!(page.lines().any(|row| row.split_whitespace().eq(["compression", shown])), "{page}");
    }
}
