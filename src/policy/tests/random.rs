//! Claims that hold for any text.

use proptest::prelude::*;

use super::*;

fn word() -> impl Strategy<Value = String> {
    let words: Vec<String> = "policy repository daemon defaults main home source repo schedule keep key read_key url paths exclude \
        drill files timezone at every offset daily listen state tags allow_unreadable schema hosts = = = . , [ ] { } [[ ]] \n \n \n \
        \"/srv\" \"main\" \"daily 02:00\" \"7d\" \"file:/k\" 'every 4h' \"s3://u:p@h\" \"\"\" ''' true 1 -1 1.5 2027-01-01 # \\ \u{feff} ü ☃ \r\n \t"
        .split(' ')
        .map(str::to_owned)
        .collect();
    prop_oneof![8 => proptest::sample::select(words), 1 => ".{0,6}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn no_text_panics(words in proptest::collection::vec(word(), 0..40), main in any::<bool>(), text in ".{0,80}") {
        for text in [words.join(" "), words.concat(), text] {
            let name = if main { "lifeboat.toml" } else { "policies/a.toml" };
            let found = match check_texts(&sources(&[(name, &text)])) {
                Ok(config) => config.warnings,
                Err(problems) => problems,
            };
            prop_assert_eq!(render(&found, false).is_empty(), found.is_empty());
            render(&found, true);
            found.to_json();
        }
    }

    /// However a file is broken, a secret in a secret's place is never shown.
    #[test]
    fn no_secret_is_shown(
        before in proptest::collection::vec(word(), 0..12),
        after in proptest::collection::vec(word(), 0..12),
        key in prop_oneof![Just("key"), Just("read_key"), Just("admin_key"), Just("password"), Just("\"key\"")],
        quote in prop_oneof![Just("\""), Just("'"), Just("\"\"\"\n"), Just("")],
    ) {
        let secret = "hunter2";
        for head in ["[repository.main]\n", "[policy.home]\n", "", "repository.main = { url = 5, "] {
            let text = format!("{} \n{head}{key} = {quote}{secret}{quote} {}", before.join(" "), after.join(" "));
            for name in ["lifeboat.toml", "policies/a.toml"] {
                let found = match check_texts(&sources(&[(name, &text)])) {
                    Ok(config) => config.warnings,
                    Err(problems) => problems,
                };
                prop_assert!(!render(&found, false).contains(secret), "{text}\n{}", render(&found, false));
                prop_assert!(!found.to_json().to_string().contains(secret));
            }
        }
    }
}
