//! What was typed: keys and values of the right types, each with its place.
//!
//! Owns the words of the configuration and the expansion of strings to tables. Refuses meaning: whether a zone exists or a
//! path is absolute is `check`'s matter. A value of the wrong type is reported here and then counts as given, so that
//! nobody is told that it is missing as well.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::found::{Found, Spot, Typed};
use super::words::{CREDENTIALS, SECRET_KEYS, nearest_key};
use crate::schedule::keep::{MIN_POINTS, RULES, WITHIN};

/// A key that may be left out.
#[derive(Clone, Debug, Default)]
pub(super) enum Given<T> {
    #[default]
    Absent,
    /// It is there and was reported already.
    Broken,
    Is(T),
}

impl<T> Given<T> {
    pub fn is(self) -> Option<T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Absent | Self::Broken => None,
        }
    }

    pub fn or(self, other: Self) -> Self {
        if matches!(self, Self::Absent) { other } else { self }
    }
}

type Text = Typed<String>;

#[derive(Default)]
pub(super) struct Document {
    pub schema: Given<Typed<i64>>,
    pub daemon: Option<DaemonDoc>,
    pub defaults: Option<DefaultsDoc>,
    pub repositories: Vec<RepositoryDoc>,
    pub policies: Vec<PolicyDoc>,
}

#[derive(Default)]
pub(super) struct DaemonDoc {
    pub listen: Given<Text>,
    pub state: Given<Text>,
    pub cache: Given<Text>,
    pub socket: Given<Text>,
    pub open_status: Given<Typed<bool>>,
    pub hosts: Given<Vec<Text>>,
}

#[derive(Clone, Default)]
pub(super) struct DefaultsDoc {
    pub repo: Given<Text>,
    pub schedule: Given<ScheduleDoc>,
    pub timezone: Given<Text>,
    pub keep: Given<KeepDoc>,
    pub accept_partial: Given<Typed<bool>>,
    /// A word, or a number as it was typed.
    pub compression: Given<Text>,
    pub drill: Given<DrillDoc>,
}

pub(super) struct RepositoryDoc {
    pub id: Text,
    pub url: Given<Text>,
    pub keys: KeysDoc,
    pub store: StoreDoc,
}

/// How a bucket is spoken to.
#[derive(Default)]
pub(super) struct StoreDoc {
    pub endpoint: Given<Text>,
    pub region: Given<Text>,
    pub path_style: Given<Typed<bool>>,
    pub ca_file: Given<Text>,
    pub allow_http: Given<Typed<bool>>,
    pub credentials: Given<Text>,
    pub account: Given<Text>,
    /// By `words::CREDENTIALS`.
    pub secrets: Vec<(&'static str, &'static str, Given<Text>)>,
    pub storage_class: Given<Text>,
    pub metadata_storage_class: Given<Text>,
    pub connections: Given<Typed<i64>>,
    pub upload_rate: Given<Text>,
    pub download_rate: Given<Text>,
}

#[derive(Clone, Default)]
pub(super) struct KeysDoc {
    pub key: Given<Text>,
    pub read_key: Given<Text>,
    pub admin_key: Given<Text>,
}

pub(super) struct PolicyDoc {
    pub id: Text,
    pub source: Given<SourceDoc>,
    pub keys: KeysDoc,
    pub tags: Given<Vec<Text>>,
    pub allow_unreadable: Given<Vec<Text>>,
    /// The keys that `[defaults]` has too.
    pub common: DefaultsDoc,
}

pub(super) struct SourceDoc {
    pub spot: Spot,
    pub paths: Given<Vec<Text>>,
    pub exclude: Given<Vec<Text>>,
    pub exclude_files: Given<Vec<Text>>,
    pub exclude_caches: Given<Typed<bool>>,
    pub one_file_system: Given<Typed<bool>>,
    pub ignore_inode: Given<Typed<bool>>,
    pub object_tags: Given<Typed<bool>>,
    /// Of the buckets among `paths`. What only writing needs is never given.
    pub store: StoreDoc,
}

#[derive(Clone)]
pub(super) struct ScheduleDoc {
    pub spot: Spot,
    pub at: Given<Vec<Text>>,
    pub every: Given<Text>,
    pub offset: Given<Text>,
}

#[derive(Clone)]
pub(super) enum KeepDoc {
    Line(Text),
    Table(Box<KeepTable>),
}

#[derive(Clone)]
pub(super) struct KeepTable {
    pub spot: Spot,
    pub counts: [Given<Typed<i64>>; 6],
    pub within: [Given<Text>; 6],
    pub min_points: Given<Typed<i64>>,
}

#[derive(Clone, Default)]
pub(super) struct DrillDoc {
    pub files: Given<Typed<i64>>,
}

/// Reads one file. The ranges are the values that nobody may see; none if the text is no TOML.
pub(super) fn read(file: usize, text: &str, is_main: bool, found: &mut Found) -> (Document, Option<Vec<Range<usize>>>) {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors {
            let span = error.span().unwrap_or(text.len()..text.len());
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            found.add("E100", &Spot { file, span }, format!("this is not TOML: {message}"));
        }
        return (Document::default(), None);
    }
    let mut reader = Reader { file, found, secrets: Vec::new() };
    let mut document = Document::default();
    let mut table = Table::new("this file", root.get_ref());
    if is_main {
        document.schema = reader.integer(&mut table, "schema");
        document.daemon = reader.child(&mut table, "daemon", "[daemon]", |reader, table| reader.daemon(table));
        document.defaults = reader.child(&mut table, "defaults", "[defaults]", |reader, table| reader.common(table));
        document.repositories = reader.children(&mut table, "repository", |reader, id, table| RepositoryDoc {
            id,
            url: reader.text(table, "url"),
            keys: reader.keys(table),
            store: reader.store(table),
        });
    }
    document.policies = reader.children(&mut table, "policy", |reader, id, table| reader.policy(id, table));
    let elsewhere = if is_main { &[][..] } else { &["schema", "daemon", "defaults", "repository"][..] };
    reader.unknown(table, elsewhere);
    let secrets = reader.secrets;
    (document, Some(secrets))
}

struct Reader<'f> {
    file: usize,
    found: &'f mut Found,
    secrets: Vec<Range<usize>>,
}

/// A table that is being read, and the keys that were asked for.
struct Table<'t> {
    name: String,
    entries: &'t DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'t> Table<'t> {
    fn new(name: impl Into<String>, entries: &'t DeTable<'t>) -> Self {
        Self { name: name.into(), entries, known: Vec::new() }
    }

    fn get(&mut self, key: &'static str) -> Option<(Range<usize>, &'t Spanned<DeValue<'t>>)> {
        self.known.push(key);
        let (name, value) = self.entries.iter().find(|(name, _)| name.get_ref().as_ref() == key)?;
        Some((name.span(), value))
    }
}

impl Reader<'_> {
    fn spot(&self, span: Range<usize>) -> Spot {
        Spot { file: self.file, span }
    }

    fn wrong_type<T>(&mut self, name: &str, value: &Spanned<DeValue<'_>>, wanted: &str) -> Given<T> {
        let spot = self.spot(value.span());
        let actual = with_article(value.get_ref().type_str());
        self.found.add("E114", &spot, format!("{name} is {wanted}, not {actual}"));
        Given::Broken
    }

    fn text(&mut self, table: &mut Table<'_>, key: &'static str) -> Given<Text> {
        let Some((_, value)) = table.get(key) else { return Given::Absent };
        if SECRET_KEYS.contains(&key) {
            self.hide(value);
        }
        match value.get_ref().as_str() {
            Some(text) => Given::Is(Typed { value: text.to_owned(), spot: self.spot(value.span()) }),
            None => self.wrong_type(&format!("`{key}`"), value, "a string"),
        }
    }

    fn word_or_number(&mut self, table: &mut Table<'_>, key: &'static str, wanted: &str) -> Given<Text> {
        let Some((_, value)) = table.get(key) else { return Given::Absent };
        let number = value.get_ref().as_integer().filter(|number| number.radix() == 10);
        match value.get_ref().as_str().or(number.map(|number| number.as_str())) {
            Some(text) => Given::Is(Typed { value: text.to_owned(), spot: self.spot(value.span()) }),
            None => self.wrong_type(&format!("`{key}`"), value, wanted),
        }
    }

    /// A string, or an array of strings.
    fn texts(&mut self, table: &mut Table<'_>, key: &'static str) -> Given<Vec<Text>> {
        let Some((_, value)) = table.get(key) else { return Given::Absent };
        self.texts_of(key, value, "a string or an array of strings")
    }

    fn texts_of(&mut self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) -> Given<Vec<Text>> {
        let name = format!("`{key}`");
        match value.get_ref() {
            DeValue::String(text) => Given::Is(vec![Typed { value: text.to_string(), spot: self.spot(value.span()) }]),
            DeValue::Array(items) => {
                let mut texts = Vec::new();
                for item in items.iter() {
                    match item.get_ref().as_str() {
                        Some(text) => texts.push(Typed { value: text.to_owned(), spot: self.spot(item.span()) }),
                        None => return self.wrong_type(&format!("each item of {name}"), item, "a string"),
                    }
                }
                Given::Is(texts)
            }
            _ => self.wrong_type(&name, value, wanted),
        }
    }

    fn flag(&mut self, table: &mut Table<'_>, key: &'static str) -> Given<Typed<bool>> {
        let Some((_, value)) = table.get(key) else { return Given::Absent };
        match value.get_ref().as_bool() {
            Some(flag) => Given::Is(Typed { value: flag, spot: self.spot(value.span()) }),
            None => self.wrong_type(&format!("`{key}`"), value, "true or false"),
        }
    }

    fn integer(&mut self, table: &mut Table<'_>, key: &'static str) -> Given<Typed<i64>> {
        let Some((_, value)) = table.get(key) else { return Given::Absent };
        let Some(integer) = value.get_ref().as_integer() else {
            return self.wrong_type(&format!("`{key}`"), value, "a whole number");
        };
        let spot = self.spot(value.span());
        match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(value) => Given::Is(Typed { value, spot }),
            Err(_) => {
                self.found.add("E115", &spot, format!("`{key}` does not fit 64 bits"));
                Given::Broken
            }
        }
    }

    /// The table under `key`, read by `read`; unknown keys in it are reported after.
    fn child<T>(
        &mut self,
        table: &mut Table<'_>,
        key: &'static str,
        name: &str,
        read: impl FnOnce(&mut Self, &mut Table<'_>) -> T,
    ) -> Option<T> {
        let (_, value) = table.get(key)?;
        let Some(entries) = value.get_ref().as_table() else {
            self.hide(value);
            self.wrong_type::<()>(name, value, "a table");
            return None;
        };
        let mut child = Table::new(name, entries);
        let result = read(self, &mut child);
        self.unknown(child, &[]);
        Some(result)
    }

    /// The tables `[key.ID]`.
    fn children<T>(
        &mut self,
        table: &mut Table<'_>,
        key: &'static str,
        mut read: impl FnMut(&mut Self, Text, &mut Table<'_>) -> T,
    ) -> Vec<T> {
        let Some((_, value)) = table.get(key) else { return Vec::new() };
        let Some(entries) = value.get_ref().as_table() else {
            self.hide(value);
            let name = format!("`{key}`");
            self.wrong_type::<()>(&name, value, &format!("a table of [{key}.ID] tables"));
            return Vec::new();
        };
        let mut list = Vec::new();
        for (id, value) in entries.iter() {
            let spot = self.spot(id.span());
            let Some(entries) = value.get_ref().as_table() else {
                self.hide(value);
                let shown = crate::names::escape(id.get_ref().as_bytes());
                self.found
                    .add(
                        "E114",
                        &spot,
                        format!(
                            "`{key}` holds tables, and \"{shown}\" is {}",
                            with_article(value.get_ref().type_str())
                        ),
                    )
                    .hint(format!("write [{key}.ID] above it"));
                continue;
            };
            let mut child = Table::new(format!("[{key}.{}]", crate::names::escape(id.get_ref().as_bytes())), entries);
            list.push(read(self, Typed { value: id.get_ref().to_string(), spot }, &mut child));
            self.unknown(child, &[]);
        }
        list
    }

    fn unknown(&mut self, table: Table<'_>, elsewhere: &[&str]) {
        for (key, value) in table.entries.iter().filter(|(key, _)| !table.known.contains(&key.get_ref().as_ref())) {
            self.hide(value);
            let typed: String = crate::names::escape(key.get_ref().as_bytes()).chars().take(60).collect();
            let spot = self.spot(key.span());
            let finding = self.found.add("E110", &spot, format!("unknown key `{typed}` in {}", table.name));
            if elsewhere.contains(&typed.as_str()) {
                finding.hint(format!("`{typed}` stands in lifeboat.toml, beside the directory of policies"));
            } else if let Some(nearest) = nearest_key(&typed, &table.known) {
                finding.label(format!("did you mean `{nearest}`?"));
            } else {
                finding.hint(format!("the keys of {} are: {}", table.name, table.known.join(", ")));
            }
        }
    }

    /// Nobody may see the leaves of `value`.
    fn hide(&mut self, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(entries) => entries.iter().for_each(|(_, value)| self.hide(value)),
            DeValue::Array(items) => items.iter().for_each(|item| self.hide(item)),
            _ => self.secrets.push(value.span()),
        }
    }

    fn daemon(&mut self, table: &mut Table<'_>) -> DaemonDoc {
        DaemonDoc {
            listen: self.text(table, "listen"),
            state: self.text(table, "state"),
            cache: self.text(table, "cache"),
            socket: self.text(table, "socket"),
            open_status: self.flag(table, "open_status"),
            hosts: self.texts(table, "hosts"),
        }
    }

    fn common(&mut self, table: &mut Table<'_>) -> DefaultsDoc {
        DefaultsDoc {
            repo: self.text(table, "repo"),
            schedule: self.schedule(table),
            keep: self.keep(table),
            timezone: self.text(table, "timezone"),
            accept_partial: self.flag(table, "accept_partial"),
            compression: self.word_or_number(
                table,
                "compression",
                "\"auto\", \"fast\", \"off\", or a number from 1 to 19",
            ),
            drill: self
                .child(table, "drill", "`drill`", |reader, table| DrillDoc { files: reader.integer(table, "files") })
                .map_or(Given::Absent, Given::Is),
        }
    }

    fn keys(&mut self, table: &mut Table<'_>) -> KeysDoc {
        KeysDoc {
            key: self.text(table, "key"),
            read_key: self.text(table, "read_key"),
            admin_key: self.text(table, "admin_key"),
        }
    }

    fn store(&mut self, table: &mut Table<'_>) -> StoreDoc {
        StoreDoc {
            storage_class: self.text(table, "storage_class"),
            metadata_storage_class: self.text(table, "metadata_storage_class"),
            upload_rate: self.text(table, "upload_rate"),
            ..self.store_to_read(table)
        }
    }

    fn store_to_read(&mut self, table: &mut Table<'_>) -> StoreDoc {
        StoreDoc {
            endpoint: self.text(table, "endpoint"),
            region: self.text(table, "region"),
            path_style: self.flag(table, "path_style"),
            ca_file: self.text(table, "ca_file"),
            allow_http: self.flag(table, "allow_http"),
            credentials: self.text(table, "credentials"),
            account: self.text(table, "account"),
            secrets: CREDENTIALS.iter().map(|(key, variable)| (*key, *variable, self.text(table, key))).collect(),
            connections: self.integer(table, "connections"),
            download_rate: self.text(table, "download_rate"),
            ..StoreDoc::default()
        }
    }

    fn policy(&mut self, id: Text, table: &mut Table<'_>) -> PolicyDoc {
        PolicyDoc {
            id,
            source: self.source(table),
            common: self.common(table),
            tags: self.texts(table, "tags"),
            allow_unreadable: self.texts(table, "allow_unreadable"),
            keys: self.keys(table),
        }
    }

    fn source(&mut self, table: &mut Table<'_>) -> Given<SourceDoc> {
        let Some((_, value)) = table.get("source") else { return Given::Absent };
        let spot = self.spot(value.span());
        let mut source = SourceDoc {
            spot,
            paths: Given::Absent,
            exclude: Given::Absent,
            exclude_files: Given::Absent,
            exclude_caches: Given::Absent,
            one_file_system: Given::Absent,
            ignore_inode: Given::Absent,
            object_tags: Given::Absent,
            store: StoreDoc::default(),
        };
        if let Some(entries) = value.get_ref().as_table() {
            let mut table = Table::new("`source`", entries);
            source.paths = self.texts(&mut table, "paths");
            source.exclude = self.texts(&mut table, "exclude");
            source.exclude_files = self.texts(&mut table, "exclude_files");
            source.exclude_caches = self.flag(&mut table, "exclude_caches");
            source.one_file_system = self.flag(&mut table, "one_file_system");
            source.ignore_inode = self.flag(&mut table, "ignore_inode");
            source.object_tags = self.flag(&mut table, "object_tags");
            source.store = self.store_to_read(&mut table);
            self.unknown(table, &[]);
        } else {
            source.paths = self.texts_of("source", value, "a path, an array of paths, or a table");
        }
        Given::Is(source)
    }

    fn schedule(&mut self, table: &mut Table<'_>) -> Given<ScheduleDoc> {
        let Some((_, value)) = table.get("schedule") else { return Given::Absent };
        let spot = self.spot(value.span());
        let mut schedule = ScheduleDoc { spot, at: Given::Absent, every: Given::Absent, offset: Given::Absent };
        if let Some(entries) = value.get_ref().as_table() {
            let mut table = Table::new("`schedule`", entries);
            schedule.at = self.texts(&mut table, "at");
            schedule.every = self.text(&mut table, "every");
            schedule.offset = self.text(&mut table, "offset");
            self.unknown(table, &[]);
        } else {
            schedule.at = self.texts_of("schedule", value, "a string, an array of strings, or a table");
        }
        Given::Is(schedule)
    }

    fn keep(&mut self, table: &mut Table<'_>) -> Given<KeepDoc> {
        let Some((_, value)) = table.get("keep") else { return Given::Absent };
        let spot = self.spot(value.span());
        match value.get_ref() {
            DeValue::String(text) => Given::Is(KeepDoc::Line(Typed { value: text.to_string(), spot })),
            DeValue::Table(entries) => {
                let mut table = Table::new("`keep`", entries);
                let counts = RULES.map(|(name, _)| self.integer(&mut table, name));
                let within = WITHIN.map(|name| self.text(&mut table, name));
                let min_points = self.integer(&mut table, MIN_POINTS);
                self.unknown(table, &[]);
                Given::Is(KeepDoc::Table(Box::new(KeepTable { spot, counts, within, min_points })))
            }
            _ => self.wrong_type("`keep`", value, "a string such as \"7d 4w 12m\", or a table"),
        }
    }
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}
