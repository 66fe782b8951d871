//! Each problem, drawn. The pictures are part of what people see: a change here is a change for them.

use super::picture;

#[test]
fn e100_a_text_that_is_no_toml_is_shown_where_it_breaks() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = "/srv/home
key = "hunter2
"#,
    )];
    let expected = r#"error[E100]: this is not TOML: invalid basic string, expected `"`
 --> policies/home.toml:2:20
  |
2 | source = "/srv/home
  |                    ^

error[E100]: this is not TOML: invalid basic string, expected `"`
 --> policies/home.toml:3:15
  |
3 | key = ***
  |          ^
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e102_a_later_schema_is_refused() {
    let files = [(
        "lifeboat.toml",
        r#"schema = 2
"#,
    )];
    let expected = r#"error[E102]: this build reads schema 1, not 2
 --> lifeboat.toml:1:10
  |
1 | schema = 2
  |          ^
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e110_an_unknown_key_is_named_with_its_nearest() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = "/srv/home"
repo = "/srv/backup"
key = "file:/etc/k"
schedule = "daily 02:00"
retention = "7d"
keep = "7d"
"#,
    )];
    let expected = r#"error[E110]: unknown key `retention` in [policy.home]
 --> policies/home.toml:6:1
  |
6 | retention = ***
  | ^^^^^^^^^ did you mean `keep`?
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e110_an_unknown_key_without_a_neighbour_lists_the_keys_and_masks_its_value() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = "/srv/home"
repo = "/srv/backup"
key = "file:/etc/k"
schedule = "daily 02:00"
keep = "7d"
drill = { files = 5, password = "hunter2" }
"#,
    )];
    let expected = r#"error[E110]: unknown key `password` in `drill`
 --> policies/home.toml:7:22
  |
7 | drill = { files = 5, password = *** }
  |                      ^^^^^^^^
  |
  = hint: the keys of `drill` are: files
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e110_what_belongs_into_the_main_file_is_sent_there() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = "/srv/home"
repo = "/srv/backup"
key = "file:/etc/k"
schedule = "daily 02:00"
keep = "7d"
[daemon]
listen = "127.0.0.1:1"
"#,
    )];
    let expected = r#"error[E110]: unknown key `daemon` in this file
 --> policies/home.toml:7:2
  |
7 | [daemon]
  |  ^^^^^^
  |
  = hint: `daemon` stands in lifeboat.toml, beside the directory of policies
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e111_a_duplicate_id_names_both_places() {
    let files = [
        (
            "policies/a.toml",
            r#"[policy.home]
source = "/srv/home"
repo = "/srv/backup"
key = "file:/etc/k"
schedule = "daily 02:00"
keep = "7d"
"#,
        ),
        (
            "policies/b.toml",
            r#"
[policy.home]
source = "/srv/home"
repo = "/srv/backup"
key = "file:/etc/k"
schedule = "daily 02:00"
keep = "7d"
"#,
        ),
    ];
    let expected = r#"error[E111]: the policy "home" is defined twice
 --> policies/b.toml:2:9
  |
2 | [policy.home]
  |         ^^^^
  |
  = note: the other place is policies/a.toml:1:9
  = hint: rename one of them, or delete it
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e113_a_missing_key_is_asked_for() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = "/srv/home"
repo = "/srv/backup"
key = "file:/etc/k"
"#,
    )];
    let expected = r#"error[E113]: the policy "home" has no `schedule`
 --> policies/home.toml:1:9
  |
1 | [policy.home]
  |         ^^^^
  |
  = hint: add schedule = "daily 02:00"

error[E113]: the policy "home" has no `keep`
 --> policies/home.toml:1:9
  |
1 | [policy.home]
  |         ^^^^
  |
  = hint: add keep = "7d 4w 12m"
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e114_a_wrong_type_says_what_was_wanted() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = 5
repo = "/srv/backup"
key = "file:/etc/k"
schedule = "daily 02:00"
keep = "7d"
accept_partial = "yes"
"#,
    )];
    let expected = r#"error[E114]: `source` is a path, an array of paths, or a table, not an integer
 --> policies/home.toml:2:10
  |
2 | source = 5
  |          ^

error[E114]: `accept_partial` is true or false, not a string
 --> policies/home.toml:7:18
  |
7 | accept_partial = "yes"
  |                  ^^^^^
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e115_a_value_out_of_range_is_refused() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = "/srv/home"
repo = "/srv/backup"
key = "file:/etc/k"
schedule = "daily 02:00"
keep = "7d"
drill = { files = 0 }
allow_unreadable = ["a{"]
tags = [""]
compression = 20
"#,
    )];
    let expected = r#"error[E115]: a drill restores 1 to 100000 files
 --> policies/home.toml:7:19
  |
7 | drill = { files = 0 }
  |                   ^
  |
  = hint: leave it out for 60

error[E115]: "a{" in `allow_unreadable` is no pattern
 --> policies/home.toml:8:21
  |
8 | allow_unreadable = ["a{"]
  |                     ^^^^
  |
  = hint: write one pattern as in a .gitignore file, such as "*.tmp" or "/srv/home/*/.cache"

error[E115]: "" is no tag
 --> policies/home.toml:9:9
  |
9 | tags = [""]
  |         ^^
  |
  = hint: a tag has 1 to 128 bytes, without commas, control characters, or spaces at its ends

error[E115]: `compression` cannot be "20"
  --> policies/home.toml:10:15
   |
10 | compression = 20
   |               ^^
   |
   = hint: write "auto", "fast", "off", or a level of zstd from 1 to 19; leave it out for "auto"
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e116_an_unknown_repository_is_named_with_its_nearest() {
    let files = [
        (
            "lifeboat.toml",
            r#"[repository.main]
url = "/srv/backup"
key = "file:/etc/k"
"#,
        ),
        (
            "policies/home.toml",
            r#"[policy.home]
source = "/srv/home"
repo = "mian"
schedule = "daily 02:00"
keep = "7d"
"#,
        ),
    ];
    let expected = r#"error[E116]: there is no repository "mian"
 --> policies/home.toml:3:8
  |
3 | repo = "mian"
  |        ^^^^^^ did you mean "main"?
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e117_a_relative_path_is_refused() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = ["/srv/home", "~/mail", "/srv/../etc"]
repo = "/srv/backup"
key = "file:/etc/k"
schedule = "daily 02:00"
keep = "7d"
"#,
    )];
    let expected = r#"error[E117]: a source is an absolute path
 --> policies/home.toml:2:24
  |
2 | source = ["/srv/home", "~/mail", "/srv/../etc"]
  |                        ^^^^^^^^
  |
  = hint: begin it with `/`: the daemon has no working directory of yours, and `~` is not expanded

error[E117]: a source has no `..` and no NUL in it
 --> policies/home.toml:2:34
  |
2 | source = ["/srv/home", "~/mail", "/srv/../etc"]
  |                                  ^^^^^^^^^^^^^
  |
  = hint: write the path that is meant: what `..` leads to depends on links
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e118_no_credentials_in_an_address() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = "/srv/home"
repo = "s3://me:hunter2@bucket/x"
key = "file:/etc/k"
schedule = "daily 02:00"
keep = "7d"
"#,
    )];
    let expected = r#"error[E118]: "s3://***@bucket/x" is no repository URL: it has a user part: credentials come from the environment or the configuration, never from an address
 --> policies/home.toml:3:8
  |
3 | repo = "s3://***@bucket/x"
  |        ^^^^^^^^^^^^^^^^^^^
  |
  = hint: write an absolute path, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e118_a_malformed_url_shows_no_password() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = "/srv/home"
repo = "https://me:hunter2@host/x"
key = "file:/etc/k"
schedule = "daily 02:00"
keep = "7d"
"#,
    )];
    let expected = r#"error[E118]: "https://***@host/x" is no repository URL: it is of a kind that Lifeboat does not know (a path with a colon begins with `./` or `/`)
 --> policies/home.toml:3:8
  |
3 | repo = "https://***@host/x"
  |        ^^^^^^^^^^^^^^^^^^^^
  |
  = hint: write an absolute path, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e119_an_id_has_its_letters() {
    let files = [(
        "policies/home.toml",
        r#"[policy.Home]
source = "/srv/home"
repo = "/srv/backup"
key = "file:/etc/k"
schedule = "daily 02:00"
keep = "7d"
"#,
    )];
    let expected = r#"error[E119]: "Home" is no id of a policy
 --> policies/home.toml:1:9
  |
1 | [policy.Home]
  |         ^^^^
  |
  = hint: an id has 1 to 63 of a-z 0-9 . _ - and begins with a letter or digit
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e120_an_inline_secret_is_refused_and_masked() {
    let files = [(
        "lifeboat.toml",
        r#"[repository]
main = { key = "hunter2", url = "srv" }
"#,
    )];
    let expected = r#"error[E120]: `key` is a reference to a secret, never the secret itself
 --> lifeboat.toml:2:16
  |
2 | main = { key = ***, url = "srv" }
  |                ^^^
  |
  = hint: write file:/absolute/path, cred:NAME (a systemd credential) or env:NAME

error[E118]: "srv" is no repository URL: its path is not absolute
 --> lifeboat.toml:2:33
  |
2 | main = { key = ***, url = "srv" }
  |                           ^^^^^
  |
  = hint: write an absolute path, or file:///path with three slashes
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e121_keys_stand_with_their_repository() {
    let files = [
        (
            "lifeboat.toml",
            r#"[repository.main]
url = "/srv/backup"
key = "file:/etc/k"
"#,
        ),
        (
            "policies/home.toml",
            r#"[policy.home]
source = "/srv/home"
repo = "main"
key = "file:/etc/k"
schedule = "daily 02:00"
keep = "7d"
"#,
        ),
    ];
    let expected = r#"error[E121]: `key` stands beside the name of a repository
 --> policies/home.toml:4:7
  |
4 | key = ***
  |       ^^^
  |
  = hint: the keys of a named repository stand in its [repository.ID]
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e122_one_repository_has_one_set_of_keys() {
    let files = [
        (
            "policies/a.toml",
            r#"[policy.home]
source = "/srv/home"
repo = "/srv/backup"
key = "file:/etc/k"
schedule = "daily 02:00"
keep = "7d"
"#,
        ),
        (
            "policies/b.toml",
            r#"[policy.mail]
source = "/srv/mail"
repo = "/srv/backup"
key = "cred:other"
schedule = "daily 02:00"
keep = "7d"
"#,
        ),
    ];
    let expected = r#"error[E122]: two policies open this repository with different keys
 --> policies/b.toml:3:8
  |
3 | repo = "/srv/backup"
  |        ^^^^^^^^^^^^^
  |
  = note: the other place is policies/a.toml:3:8
  = hint: give it a name and its keys once, as a [repository.ID] in lifeboat.toml
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e130_an_unknown_zone_is_named_with_its_nearest() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = "/srv/home"
repo = "/srv/backup"
key = "file:/etc/k"
schedule = "daily 02:00"
keep = "7d"
timezone = "Europe/Berlim"
"#,
    )];
    let expected = r#"error[E130]: "Europe/Berlim" is no time zone
 --> policies/home.toml:7:12
  |
7 | timezone = "Europe/Berlim"
  |            ^^^^^^^^^^^^^^^ did you mean "Europe/Berlin"?
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e131_a_schedule_that_never_fires_is_refused() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = "/srv/home"
repo = "/srv/backup"
key = "file:/etc/k"
schedule = "0 0 30 2 *"
keep = "7d"
"#,
    )];
    let expected = r#"error[E131]: this schedule never fires
 --> policies/home.toml:5:12
  |
5 | schedule = "0 0 30 2 *"
  |            ^^^^^^^^^^^^
  |
  = hint: no date up to the year 2100 matches it
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e134_six_fields_are_an_error_with_a_hint() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = "/srv/home"
repo = "/srv/backup"
key = "file:/etc/k"
schedule = ["daily 25:00", "0 0 2 * * *"]
keep = "7d"
"#,
    )];
    let expected = r#"error[E134]: "25:00" is not a time of day
 --> policies/home.toml:5:13
  |
5 | schedule = ["daily 25:00", "0 0 2 * * *"]
  |             ^^^^^^^^^^^^^
  |
  = hint: write hours and minutes from 00:00 to 23:59

error[E134]: a cron line has five fields, and this one has 6
 --> policies/home.toml:5:28
  |
5 | schedule = ["daily 25:00", "0 0 2 * * *"]
  |                            ^^^^^^^^^^^^^
  |
  = hint: write minute, hour, day of month, month, day of week; seconds and years are not part of it ('every 30s' is a schedule too)
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e140_a_policy_keeps_at_least_one_snapshot() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = "/srv/home"
repo = "/srv/backup"
key = "file:/etc/k"
schedule = "daily 02:00"
keep = { daily = 0 }
"#,
    )];
    let expected = r#"error[E140]: a policy keeps at least one snapshot
 --> policies/home.toml:6:8
  |
6 | keep = { daily = 0 }
  |        ^^^^^^^^^^^^^ nothing would remain
  |
  = hint: write "7d 4w 12m", for example
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e140_an_age_is_a_stretch_of_the_calendar() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = "/srv/home"
repo = "/srv/backup"
key = "file:/etc/k"
schedule = "daily 02:00"
keep = { daily = 7, within = "soon" }

[policy.mail]
source = "/srv/mail"
repo = "/srv/backup"
key = "file:/etc/k"
schedule = "daily 02:00"
keep = { min_points = 2, within_daly = "30d" }
"#,
    )];
    let expected = r#"error[E140]: "soon" is no age
 --> policies/home.toml:6:30
  |
6 | keep = { daily = 7, within = "soon" }
  |                              ^^^^^^
  |
  = hint: write counts with y, m (months), w, d or h: "1y6m", "30d"

error[E140]: a policy keeps at least one snapshot
  --> policies/home.toml:13:8
   |
13 | keep = { min_points = 2, within_daly = *** }
   |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ nothing would remain
   |
   = hint: write "7d 4w 12m", for example

error[E110]: unknown key `within_daly` in `keep`
  --> policies/home.toml:13:26
   |
13 | keep = { min_points = 2, within_daly = *** }
   |                          ^^^^^^^^^^^ did you mean `within_daily`?
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e301_an_address_for_all_is_refused() {
    let files = [(
        "lifeboat.toml",
        r#"[daemon]
listen = "0.0.0.0:7420"
"#,
    )];
    let expected = r#"error[E301]: 0.0.0.0:7420 is not a loopback address
 --> lifeboat.toml:2:10
  |
2 | listen = "0.0.0.0:7420"
  |          ^^^^^^^^^^^^^^
  |
  = hint: another address needs TLS, which this build does not speak: listen on 127.0.0.1 and put a proxy or a tunnel in front
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn w114_a_source_within_a_source_is_a_warning() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = ["/srv/home", "/srv/home/mail/"]
repo = "/srv/backup"
key = "file:/etc/k"
schedule = "daily 02:00"
keep = "7d"
"#,
    )];
    let expected = r#"warning[W114]: this source lies in /srv/home and is saved with it already
 --> policies/home.toml:2:24
  |
2 | source = ["/srv/home", "/srv/home/mail/"]
  |                        ^^^^^^^^^^^^^^^^^
  |
  = hint: delete it
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn w131_two_day_fields_are_a_warning() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = "/srv/home"
repo = "/srv/backup"
key = "file:/etc/k"
schedule = "cron 0 2 1 * mon"
keep = "7d"
"#,
    )];
    let expected = r#"warning[W131]: both day fields are restricted, and both must match
 --> policies/home.toml:5:12
  |
5 | schedule = "cron 0 2 1 * mon"
  |            ^^^^^^^^^^^^^^^^^^
  |
  = hint: crontab would run when either matches; for that, write two lines
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn w133_a_line_that_stands_twice_is_a_warning() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = "/srv/home"
repo = "/srv/backup"
key = "file:/etc/k"
schedule = ["daily 02:00", "daily 2:00"]
keep = "7d"
"#,
    )];
    let expected = r#"warning[W133]: this line stands twice and counts once
 --> policies/home.toml:5:28
  |
5 | schedule = ["daily 02:00", "daily 2:00"]
  |                            ^^^^^^^^^^^^
  |
  = hint: delete it
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn w134_a_day_that_some_months_lack_is_a_warning() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = "/srv/home"
repo = "/srv/backup"
key = "file:/etc/k"
schedule = "monthly 31 02:00"
keep = "7d"
"#,
    )];
    let expected = r#"warning[W134]: months without this day are left out
 --> policies/home.toml:5:12
  |
5 | schedule = "monthly 31 02:00"
  |            ^^^^^^^^^^^^^^^^^^
  |
  = hint: write a day up to 28, or "monthly last-fri" and the like
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn w231_a_source_that_holds_its_repository_is_a_warning() {
    let files = [(
        "policies/home.toml",
        r#"[policy.home]
source = "/srv"
repo = "/srv/backup"
key = "file:/etc/k"
schedule = "daily 02:00"
keep = "7d"
"#,
    )];
    let expected = r#"warning[W231]: this source holds its own repository, /srv/backup
 --> policies/home.toml:2:10
  |
2 | source = "/srv"
  |          ^^^^^^
  |
  = hint: exclude the repository: each run would save what the last one stored
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn columns_are_those_of_the_file_even_behind_a_mask() {
    let files = [(
        "lifeboat.toml",
        r#"[repository]
"möwe" = { key = "env:ABCDEFGHIJKLMNOPQ", url = "srv" }
"#,
    )];
    let expected = r#"error[E119]: "möwe" is no id of a repository
 --> lifeboat.toml:2:1
  |
2 | "möwe" = { key = ***, url = "srv" }
  | ^^^^^^
  |
  = hint: an id has 1 to 63 of a-z 0-9 . _ - and begins with a letter or digit

error[E118]: "srv" is no repository URL: its path is not absolute
 --> lifeboat.toml:2:49
  |
2 | "möwe" = { key = ***, url = "srv" }
  |                             ^^^^^
  |
  = hint: write an absolute path, or file:///path with three slashes
"#;
    assert_eq!(picture(&files), expected);
}

#[test]
fn e100_a_key_that_stands_twice_is_shown_at_its_second_place() {
    let files = [("lifeboat.toml", "[daemon]\nlisten = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"\n")];
    let expected = r#"error[E100]: this is not TOML: duplicate key
 --> lifeboat.toml:3:1
  |
3 | listen = "127.0.0.1:2"
  | ^^^^^^
"#;
    assert_eq!(picture(&files), expected);
}
