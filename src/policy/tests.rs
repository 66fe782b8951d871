use std::collections::BTreeSet;

use super::*;

mod pictures;
mod random;

/// What people see of these files: problems of a refused configuration, or warnings of a good one.
fn picture(files: &[(&str, &str)]) -> String {
    render(&problems(files), false)
}

fn problems(files: &[(&str, &str)]) -> Problems {
    match check_texts(&sources(files)) {
        Ok(config) => {
            assert!(!config.warnings.has_errors());
            config.warnings
        }
        Err(problems) => {
            assert!(problems.has_errors());
            problems
        }
    }
}

fn sources(files: &[(&str, &str)]) -> Vec<SourceFile> {
    files
        .iter()
        .map(|(name, text)| SourceFile {
            name: (*name).to_owned(),
            text: (*text).to_owned(),
            is_main: *name == "lifeboat.toml",
        })
        .collect()
}

#[test]
fn four_lines_are_a_policy() {
    let main = "[repository.main]\nurl = \"file:///srv/backup/\"\nkey = \"cred:main\"\nadmin_key = \"env:ADMIN\"\n";
    let home =
        "[policy.home]\nsource = \"/srv/home/\"\nrepo = \"main\"\nschedule = \"daily 02:00\"\nkeep = \"7d 4w 12m\"\n";
    let config = check_texts(&sources(&[("lifeboat.toml", main), ("policies/home.toml", home)])).unwrap();
    assert!(config.warnings.is_empty());
    assert_eq!(config.daemon, DaemonConfig::default());
    let policy = &config.policies[&"home".parse().unwrap()];
    assert_eq!(policy.source.paths, [Path::new("/srv/home")]);
    assert_eq!(policy.schedule.to_string(), "daily 02:00");
    assert_eq!(policy.zone.iana_name(), Some("UTC"));
    assert_eq!(policy.keep.to_string(), "7d 4w 12m");
    assert_eq!(policy.drill.files, 60);
    assert_eq!(policy.compression.to_string(), "auto");
    assert!(!policy.accept_partial);
    let repository = &config.repositories[&policy.repository];
    assert_eq!(repository.url.address().directory(), Some(Path::new("/srv/backup")));
    assert_eq!(repository.store, StoreSettings::default());
    assert_eq!(repository.key, SecretRef::Credential("main".into()));
    assert_eq!((&repository.read_key, &repository.admin_key), (&None, &Some(SecretRef::Env("ADMIN".into()))));
}

#[test]
fn a_bucket_is_a_source_by_itself_or_beside_paths() {
    let main = "[repository.main]\nurl = \"file:///srv/backup/\"\nkey = \"cred:main\"\n";
    let checked = |source: &str| {
        let text =
            format!("[policy.home]\nsource = {source}\nrepo = \"main\"\nschedule = \"daily 02:00\"\nkeep = \"7d\"\n");
        check_texts(&sources(&[("lifeboat.toml", main), ("policies/home.toml", &text)]))
    };
    let config = checked("[\"s3://photos/2026\", \"/srv/home\", \"s3://photos/2026/\"]").unwrap();
    let source = &config.policies[&"home".parse().unwrap()].source;
    assert_eq!(source.paths, [Path::new("/srv/home")]);
    assert_eq!(source.buckets.iter().map(ToString::to_string).collect::<Vec<_>>(), ["s3://photos/2026"]);
    assert!(checked("\"gs://photos\"").is_ok());
    for bad in ["\"s3://\"", "\"ftp://host/x\"", "\"file:///srv\"", "[]"] {
        assert!(checked(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_bucket_has_settings_and_its_credentials_are_references() {
    let main = r#"
        [repository.cloud]
        url = "s3://backup/web1"
        key = "cred:writer"
        endpoint = "https://s3.example.org"
        region = "eu-central-1"
        path_style = false
        ca_file = "/etc/ssl/own.pem"
        access_key_id = "cred:s3-id"
        secret_access_key = "file:/etc/lifeboat/s3"
        storage_class = "STANDARD_IA"
        connections = 8
        upload_rate = "20 MiB/s"
    "#;
    let config = check_texts(&sources(&[("lifeboat.toml", main)])).unwrap();
    let store = &config.repositories[&"cloud".parse().unwrap()].store;
    assert_eq!(store.endpoint.as_deref(), Some("https://s3.example.org"));
    assert_eq!((store.path_style, store.allow_http, store.connections), (Some(false), false, Some(8)));
    assert_eq!(store.upload_rate, Some(crate::units::ByteCount(20 << 20)));
    let secrets: Vec<_> = store.secrets.iter().map(|(name, secret)| format!("{name}={secret}")).collect();
    assert_eq!(secrets, ["AWS_ACCESS_KEY_ID=cred:s3-id", "AWS_SECRET_ACCESS_KEY=file:/etc/lifeboat/s3"]);
}

#[test]
fn the_buckets_of_a_source_have_settings_of_their_own() {
    let main = "[repository.main]\nurl = \"s3://backup\"\nkey = \"cred:main\"\nregion = \"eu-central-1\"\n";
    let policy = |source: &str| {
        format!("[policy.photos]\nsource = {source}\nrepo = \"main\"\nschedule = \"daily 02:00\"\nkeep = \"7d\"\n")
    };
    let source = r#"{ paths = "s3://photos", endpoint = "https://minio.example.org", path_style = true, allow_http = true,
        ca_file = "/etc/ssl/own.pem", access_key_id = "cred:id", secret_access_key = "env:SECRET", connections = 4, object_tags = true,
        download_rate = "5 MiB" }"#;
    let config = check_texts(&sources(&[("lifeboat.toml", main), ("policies/p.toml", &policy(source))])).unwrap();
    let source = &config.policies[&"photos".parse().unwrap()].source;
    assert_eq!(source.store.endpoint.as_deref(), Some("https://minio.example.org"));
    assert_eq!((source.store.region.as_deref(), source.store.path_style), (None, Some(true)));
    assert_eq!((source.store.allow_http, source.store.connections), (true, Some(4)));
    assert!(source.object_tags);
    let secrets: Vec<_> = source.store.secrets.iter().map(|(name, secret)| format!("{name}={secret}")).collect();
    assert_eq!(secrets, ["AWS_ACCESS_KEY_ID=cred:id", "AWS_SECRET_ACCESS_KEY=env:SECRET"]);
    assert_eq!(config.repositories[&"main".parse().unwrap()].store.endpoint, None, "which is another cloud");

    let codes = |source: &str| {
        let found = problems(&[("lifeboat.toml", main), ("policies/p.toml", &policy(source))]);
        assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
        found.list.iter().map(|problem| problem.code).collect::<Vec<_>>()
    };
    for (source, expected) in [
        (r#"{ paths = "/srv/home", region = "x" }"#, vec!["E123"]),
        (
            r#"{ paths = ["/srv/home", "s3://photos"], endpoint = "https://h", allow_http = true }"#,
            vec!["E123", "E123"],
        ),
        (r#"{ paths = "s3://photos", secret_access_key = "hunter2" }"#, vec!["E120"]),
        (r#"{ paths = "s3://photos", endpoint = "h" }"#, vec!["E118"]),
        (r#"{ paths = "gs://photos", object_tags = true }"#, vec!["E123"]),
        (r#"{ paths = ["s3://photos", "/srv"], object_tags = true }"#, vec!["E123"]),
        // Nothing is written there.
        (r#"{ paths = "s3://photos", storage_class = "STANDARD" }"#, vec!["E110"]),
        (r#"{ paths = "s3://photos", upload_rate = "1 MiB" }"#, vec!["E110"]),
    ] {
        assert_eq!(codes(source), expected, "{source}");
    }
}

#[test]
fn a_credential_that_was_written_out_is_refused_and_shown_nowhere() {
    let main = "[repository.c]\nurl = \"s3://b\"\nkey = \"cred:w\"\nsecret_access_key = \"hunter2\"\nsas_token = 5\n";
    let found = problems(&[("lifeboat.toml", main)]);
    assert_eq!(found.list.len(), 2);
    assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
}

#[test]
fn settings_of_a_bucket_beside_a_directory_are_a_mistake() {
    let main = "[repository.d]\nurl = \"/srv/b\"\nkey = \"cred:w\"\nregion = \"x\"\nallow_http = true\n";
    let found = problems(&[("lifeboat.toml", main)]);
    assert_eq!(found.list.iter().map(|problem| problem.code).collect::<Vec<_>>(), ["E123", "E123"]);
}

#[test]
fn defaults_stand_under_every_policy_and_policies_win() {
    let main = r#"
        [daemon]
        listen = "[::1]:9"
        open_status = false
        hosts = "Backup.Example.org"
        [defaults]
        timezone = "Europe/Berlin"
        keep = "7d"
        repo = "main"
        schedule = "daily 02:00"
        accept_partial = true
        compression = 6
        drill.files = 5
        [repository.main]
        url = "/srv/backup"
        key = "file:/etc/k"
        [policy.a]
        source = "/a"
        [policy.b]
        source = ["/b", "/c"]
        timezone = "UTC"
        keep = { last = 3 }
        schedule = { every = "4h", offset = "15m", at = "sat 04:00" }
        accept_partial = false
        compression = "fast"
        drill = { files = 6 }
    "#;
    let config = check_texts(&sources(&[("lifeboat.toml", main)])).unwrap();
    assert_eq!(
        (config.daemon.open_status, config.daemon.hosts.as_slice()),
        (false, &["backup.example.org".to_owned()][..])
    );
    let show = |name: &str| {
        let p = &config.policies[&name.parse().unwrap()];
        let files = p.drill.files;
        format!("{:?} {} {} {} {} {files}", p.zone.iana_name(), p.keep, p.schedule, p.accept_partial, p.compression)
    };
    assert_eq!(show("a"), "Some(\"Europe/Berlin\") 7d daily 02:00 true 6 5");
    assert_eq!(show("b"), "Some(\"UTC\") 3l sat 04:00, every 4h offset 15m false fast 6");
}

#[test]
fn policies_with_one_place_and_one_key_share_a_repository() {
    let policy = |id: &str| {
        format!(
            "[policy.{id}]\nsource = \"/{id}\"\nrepo = \"/srv/backup\"\nkey = \"file:/k\"\nschedule = \"@daily\"\nkeep = \"1l\"\n"
        )
    };
    let text = policy("a") + &policy("b");
    let config = check_texts(&sources(&[("p.toml", &text)])).unwrap();
    assert_eq!(config.repositories.keys().map(RepositoryName::as_str).collect::<Vec<_>>(), ["/srv/backup"]);
    assert!(config.policies.values().all(|policy| config.repositories.contains_key(&policy.repository)));
}

#[test]
fn all_mistakes_of_all_files_come_at_once() {
    let broken = "[policy.a\n";
    let wrong = "[policy.b]\nsource = 1\nrepo = \"x\"\nschedule = \"never\"\nkeep = \"0d\"\nfoo = 1\n";
    let main = "[repository.main]\nurl = \"ftp://x\"\n[daemon]\nlisten = \"x\"\n";
    let found = problems(&[("lifeboat.toml", main), ("policies/a.toml", broken), ("policies/b.toml", wrong)]);
    let codes: Vec<_> = found.list.iter().map(|p| (p.place.file.as_str(), p.place.line, p.code)).collect();
    assert_eq!(
        codes,
        [
            ("lifeboat.toml", 1, "E113"),
            ("lifeboat.toml", 2, "E118"),
            ("lifeboat.toml", 4, "E115"),
            ("policies/a.toml", 1, "E100"),
            ("policies/b.toml", 2, "E114"),
            ("policies/b.toml", 3, "E116"),
            ("policies/b.toml", 4, "E134"),
            ("policies/b.toml", 5, "E140"),
            ("policies/b.toml", 6, "E110"),
        ]
    );
}

#[test]
fn a_broken_main_file_does_not_make_its_repositories_unknown() {
    let home = "[policy.home]\nsource = \"/h\"\nrepo = \"main\"\nschedule = \"daily 02:00\"\nkeep = \"7d\"\n";
    let found = problems(&[("lifeboat.toml", "[repository.main\n"), ("policies/home.toml", home)]);
    assert!(found.list.iter().all(|problem| problem.code == "E100"), "{found:?}");
}

#[test]
fn json_tells_what_the_picture_tells() {
    let found = problems(&[("lifeboat.toml", "[daemon]\nlisten = \"0.0.0.0:1\"\nstat = \"/x\"\n")]);
    let expected = serde_json::json!([
        {
            "severity": "error", "code": "E301", "message": "0.0.0.0:1 is not a loopback address",
            "file": "lifeboat.toml", "line": 2, "col": 10,
            "hint": "another address needs TLS, which this build does not speak: listen on 127.0.0.1 and put a proxy or a tunnel in front",
        },
        {
            "severity": "error", "code": "E110", "message": "unknown key `stat` in [daemon]",
            "file": "lifeboat.toml", "line": 3, "col": 1, "label": "did you mean `state`?",
            "hint": null,
        },
    ]);
    assert_eq!(found.to_json(), expected);
}

#[test]
fn colour_adds_nothing_but_colour() {
    let found = problems(&[("lifeboat.toml", "[repository]\nm = { key = \"hunter2\", url = \"srv\" }\n")]);
    let colored = render(&found, true);
    let mut plain = String::new();
    let mut rest = colored.as_str();
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    assert!(colored.len() > plain.len());
    assert_eq!(plain, render(&found, false));
}

#[test]
fn a_flood_of_mistakes_is_cut_and_counted() {
    let text: String = (0..2000).map(|n| format!("wrong{n} = \"hunter2\"\n")).collect();
    let found = problems(&[("a.toml", &text)]);
    assert_eq!(found.list.len(), 501);
    assert_eq!(found.list[500].message, "1500 more problems are not shown");
}

/// The codes found in one policy with this line in place of its own.
fn codes_of(line: &str) -> Vec<&'static str> {
    let key = line.split(' ').next().unwrap();
    let lines = [
        "source = \"/srv/home\"",
        "repo = \"/srv/backup\"",
        "key = \"file:/k\"",
        "schedule = \"daily 02:00\"",
        "keep = \"7d\"",
    ];
    let others = lines.iter().filter(|other| other.split(' ').next() != Some(key));
    let text: String = others.map(|other| format!("{other}\n")).collect();
    let text = format!("[policy.p]\n{text}{line}\n");
    match check_texts(&sources(&[("p.toml", &text)])) {
        Ok(config) => config.warnings.list.iter().map(|problem| problem.code).collect(),
        Err(problems) => problems.list.iter().map(|problem| problem.code).collect(),
    }
}

#[test]
fn values_are_good_or_named_by_their_code() {
    let good = [
        r#"key = "cred:repo-main_1.key""#,
        r#"key = "env:LIFEBOAT_KEY""#,
        r#"key = "file:/etc/../etc/k""#,
        r#"repo = "file:///srv/backup""#,
        r#"timezone = "europe/berlin""#,
        r#"timezone = "UTC""#,
        r#"source = ["/"]"#,
        r#"tags = "one""#,
        r#"schedule = "@weekly""#,
    ];
    let found = good.map(codes_of);
    assert_eq!(found[2], ["E120"]); // what `..` leads to depends on links
    assert_eq!(found[6], ["W231"]);
    assert!((0..9).filter(|at| ![2, 6].contains(at)).all(|at| found[at].is_empty()), "{found:?}");
    for (line, code) in [
        (r#"key = "/etc/k""#, "E120"),
        (r#"key = "file:k""#, "E120"),
        (r#"key = "cred:a/b""#, "E120"),
        (r#"key = "cred:""#, "E120"),
        (r#"key = "env:1A""#, "E120"),
        (r#"key = "cmd:pass show""#, "E120"),
        (r#"key = """#, "E120"),
        (r#"repo = "gs://""#, "E118"),
        (r#"repo = "sftp://h/b""#, "E118"),
        (r#"repo = "./b""#, "E118"),
        (r#"repo = "file://b""#, "E118"),
        (r#"repo = "file:///b%2""#, "E118"),
        (r#"repo = "/a/../b""#, "E117"),
        (r#"repo = "Main""#, "E119"),
        (r#"repo = """#, "E119"),
        (r#"source = []"#, "E115"),
        (r#"source = """#, "E117"),
        (r#"source = {}"#, "E113"),
        (r#"source = [1]"#, "E114"),
        (r#"timezone = "+02:00""#, "E130"),
        (r#"timezone = """#, "E130"),
        (r#"timezone = "Berlin""#, "E130"),
        (r#"timezone = 2"#, "E114"),
        (r#"schedule = []"#, "E115"),
        (r#"schedule = {}"#, "E115"),
        (r#"schedule = { offset = "1m" }"#, "E113"),
        (r#"schedule = { every = "1m", offset = "1m" }"#, "E134"),
        (r#"schedule = { every = "0s" }"#, "E134"),
        (r#"schedule = 5"#, "E114"),
        (r#"keep = 7"#, "E114"),
        (r#"keep = """#, "E140"),
        (r#"keep = { daily = -1 }"#, "E140"),
        (r#"keep = { daily = "7" }"#, "E114"),
        (r#"keep = {}"#, "E140"),
        (r#"keep = { min_points = 2 }"#, "E140"),
        (r#"keep = { daily = 1, min_points = -1 }"#, "E140"),
        (r#"keep = { within = "soon" }"#, "E140"),
        (r#"keep = { within = 7 }"#, "E114"),
        (r#"keep = "7d within=1x""#, "E140"),
        (r#"compression = 0"#, "E115"),
        (r#"compression = 20"#, "E115"),
        (r#"compression = -3"#, "E115"),
        (r#"compression = "max""#, "E115"),
        (r#"compression = 0x3"#, "E114"),
        (r#"compression = true"#, "E114"),
        (r#"compression = 3.5"#, "E114"),
        (r#"compress = 3"#, "E110"),
        (r#"drill = 5"#, "E114"),
        (r#"drill = { files = 99999999999999999999 }"#, "E115"),
        (r#"tags = ["a,b"]"#, "E115"),
        (r#"rpo = "30h""#, "E110"),
    ] {
        assert_eq!(codes_of(line), [code], "{line}");
    }
}

#[test]
fn a_city_finds_its_zone() {
    let text = "[defaults]\ntimezone = \"Sao Paulo\"\n";
    assert_eq!(
        problems(&[("lifeboat.toml", text)]).list[0].label.as_deref(),
        Some("did you mean \"America/Sao_Paulo\"?")
    );
}

#[test]
fn every_code_is_explained_and_every_explanation_has_a_code() {
    let sources = [
        include_str!("check.rs"),
        include_str!("cloud.rs"),
        include_str!("document.rs"),
        include_str!("found.rs"),
        include_str!("load.rs"),
        include_str!("mod.rs"),
        include_str!("timing.rs"),
        include_str!("values.rs"),
    ];
    let is_code =
        |word: &&str| word.len() == 4 && word.starts_with(['E', 'W']) && word[1..].bytes().all(|b| b.is_ascii_digit());
    let used: BTreeSet<&str> = sources.iter().flat_map(|source| source.split('"')).filter(is_code).collect();
    let explained: BTreeSet<&str> =
        include_str!("../../policies/README.md").split(['|', ' ']).filter(is_code).collect();
    assert_eq!(used, explained);
}

fn shipped(dir: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("policies").join(dir)
}

#[test]
fn every_shipped_configuration_passes() {
    for dir in ["quickstart", "examples"] {
        let config = load(&shipped(dir)).unwrap_or_else(|problems| panic!("{}", render(&problems, false)));
        assert!(config.warnings.is_empty(), "{}", render(&config.warnings, false));
        assert!(!config.policies.is_empty());
        for file in shipped(dir).join("policies").read_dir().unwrap() {
            assert!(check_files(&[file.unwrap().path()]).is_empty());
        }
    }
}

#[test]
fn a_directory_is_read_in_the_order_of_names() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let codes = || match load(dir.path()) {
        Ok(config) => config.warnings.list.iter().map(|p| p.code).collect::<Vec<_>>(),
        Err(problems) => problems.list.iter().map(|p| p.code).collect(),
    };
    assert_eq!(codes(), ["E101"]); // nothing is here
    write("lifeboat.toml", "");
    assert_eq!(codes(), ["W101"]);
    std::fs::create_dir(dir.path().join("policies")).unwrap();
    write("policies/b.toml", "[policy.x]\n");
    write("policies/a.toml", "[policy.x]\n");
    write("policies/.hidden.toml", "nonsense");
    write("policies/notes.txt", "nonsense");
    let problems = load(dir.path()).unwrap_err();
    let twice = problems.list.iter().find(|problem| problem.code == "E111").unwrap();
    assert!(twice.place.file.ends_with("b.toml") && twice.other.as_ref().unwrap().file.ends_with("a.toml"));
    write("policies/a.toml", "\u{feff}");
    std::fs::write(dir.path().join("policies/c.toml"), b"\xff").unwrap();
    std::fs::write(dir.path().join("policies/d.toml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    std::fs::create_dir(dir.path().join("policies/e.toml")).unwrap();
    assert_eq!(codes(), ["E101", "E101", "E101", "E113", "E113", "E113", "E113"]);
}

#[test]
fn a_single_file_is_checked_with_the_main_file_it_belongs_to() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("policies")).unwrap();
    let policy = dir.path().join("policies/home.toml");
    let text = "[policy.home]\nsource = \"/h\"\nrepo = \"main\"\nschedule = \"daily 02:00\"\nkeep = \"7d\"\n";
    std::fs::write(&policy, text).unwrap();
    assert!(check_files(std::slice::from_ref(&policy)).is_empty()); // any name may exist
    std::fs::write(dir.path().join("lifeboat.toml"), "").unwrap();
    let found = check_files(&[policy, dir.path().join("absent.toml")]);
    assert_eq!(found.list.iter().map(|p| p.code).collect::<Vec<_>>(), ["E101"]); // a file is missing: perhaps that one has it
    let found = check_files(&[dir.path().join("policies/home.toml")]);
    assert_eq!(found.list.iter().map(|p| p.code).collect::<Vec<_>>(), ["E116"]);
}
