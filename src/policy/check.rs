//! From what was typed to what it means, over all files at once.
//!
//! Owns the judgement. Refuses to stop at the first mistake: whatever can still be checked is checked.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::tz::TimeZone;

use super::document::{self, DaemonDoc, DefaultsDoc, Given, KeysDoc, PolicyDoc, SourceDoc};
use super::found::{Found, Spot, Typed};
use super::model::*;
use super::problem::Problems;
use super::quote::{Page, SourceFile};
use super::words::nearest;
use super::{cloud, timing, values};
use crate::address::Cloud;
use crate::compression::Compression;
use crate::names::PolicyName;

const FILES_OF_A_DRILL_MAX: u32 = 100_000;

/// Which names of repositories a policy may use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// All that exist are among the files.
    Known,
    /// `lifeboat.toml` is not at hand: any name may exist.
    Unseen,
}

/// The configuration, if it holds no error, and everything worth a word.
pub(super) fn check(files: &[SourceFile], names: Names, mut found: Found) -> (Option<Config>, Problems) {
    let mut pages: Vec<Page<'_>> = files.iter().map(Page::new).collect();
    let mut names = names;
    let mut documents = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let (document, secrets) = document::read(index, &file.text, file.is_main, &mut found);
        if secrets.is_none() && file.is_main {
            names = Names::Unseen; // what it defines is unknown until it is TOML again
        }
        pages[index].secrets = secrets;
        documents.push(document);
    }

    let mut checker =
        Checker { found, names, repositories: BTreeMap::new(), places: BTreeMap::new(), unnamed: BTreeMap::new() };
    let mut daemon = DaemonConfig::default();
    let mut defaults = DefaultsDoc::default();
    for document in &mut documents {
        if let Some(schema) = std::mem::take(&mut document.schema).is().filter(|schema| schema.value != 1) {
            let message = format!("this build reads schema 1, not {}", schema.value);
            checker.found.add("E102", &schema.spot, message);
        }
        if let Some(doc) = document.daemon.take() {
            daemon = checker.daemon(doc);
        }
        if let Some(doc) = document.defaults.take() {
            checker.check_defaults(&doc);
            defaults = doc;
        }
        for repository in std::mem::take(&mut document.repositories) {
            checker.repository(repository);
        }
    }
    let mut policies = BTreeMap::new();
    let mut places: BTreeMap<String, Spot> = BTreeMap::new();
    for document in documents {
        for policy in document.policies {
            let id = policy.id.clone();
            if let Some(first) = places.get(&id.value) {
                let message = format!("the policy \"{}\" is defined twice", values::shown(&id.value));
                checker.found.add("E111", &id.spot, message).other(first).hint("rename one of them, or delete it");
            } else {
                places.insert(id.value, id.spot);
            }
            if let Some(policy) = checker.policy(policy, &defaults) {
                policies.entry(policy.name.clone()).or_insert(policy);
            }
        }
    }
    let Checker { found, repositories, .. } = checker;
    let failed = found.has_errors();
    let problems = found.finish(&pages);
    let repositories = repositories.into_iter().filter_map(|(name, config)| Some((name, config?))).collect();
    let config =
        if failed { None } else { Some(Config { daemon, repositories, policies, warnings: problems.clone() }) };
    (config, problems)
}

struct Checker {
    found: Found,
    names: Names,
    /// None where a repository was defined with mistakes.
    repositories: BTreeMap<RepositoryName, Option<RepositoryConfig>>,
    /// Where each repository was defined.
    places: BTreeMap<RepositoryName, Spot>,
    /// Where each repository without a name was first used.
    unnamed: BTreeMap<RepositoryName, Spot>,
}

impl Checker {
    fn daemon(&mut self, doc: DaemonDoc) -> DaemonConfig {
        let standard = DaemonConfig::default();
        let found = &mut self.found;
        DaemonConfig {
            listen: doc.listen.is().and_then(|text| values::listen(&text, found)).unwrap_or(standard.listen),
            state: doc.state.is().and_then(|text| values::absolute_path(&text, "`state`", found)),
            cache: doc.cache.is().and_then(|text| values::absolute_path(&text, "`cache`", found)),
            socket: doc.socket.is().and_then(|text| values::socket_path(&text, found)),
            open_status: doc.open_status.is().map_or(standard.open_status, |flag| flag.value),
            hosts: values::hosts(&doc.hosts.is().unwrap_or_default(), found),
        }
    }

    /// A default that no policy uses is to be right all the same.
    fn check_defaults(&mut self, doc: &DefaultsDoc) {
        let doc = doc.clone();
        doc.timezone.is().and_then(|text| values::zone(&text, &mut self.found));
        doc.schedule.is().and_then(|schedule| timing::schedule(schedule, &mut self.found));
        doc.keep.is().and_then(|keep| timing::keep(keep, &mut self.found));
        doc.compression.is().and_then(|text| values::compression(&text, &mut self.found));
        doc.drill.is().map(|drill| self.drill_files(drill.files));
    }

    fn repository(&mut self, doc: document::RepositoryDoc) {
        let name = match doc.id.value.parse::<RepositoryName>() {
            Ok(name) => Some(name),
            Err(_) => {
                self.bad_id("repository", &doc.id);
                None
            }
        };
        let url = self.required(doc.url, "url", "the repository", &doc.id);
        let url = url.and_then(|text| values::repository_url(&text, &mut self.found));
        let key = self.required(doc.keys.key.clone(), "key", "the repository", &doc.id);
        let is_directory = url.as_ref().is_some_and(|url| url.address().directory().is_some());
        let misplaced = is_directory.then_some(cloud::Misplaced::Repository);
        let store = cloud::settings(doc.store, misplaced, &mut self.found);
        let config = self.with_keys(url, key, doc.keys, store);
        let Some(name) = name else { return };
        // The same id twice in one file is no TOML; only `lifeboat.toml` defines repositories, and two of those may be given.
        if let Some(first) = self.places.get(&name) {
            let message = format!("the repository \"{name}\" is defined twice");
            self.found.add("E111", &doc.id.spot, message).other(first).hint("rename one of them, or delete it");
            return;
        }
        self.places.insert(name.clone(), doc.id.spot);
        self.repositories.insert(name, config);
    }

    fn with_keys(
        &mut self,
        url: Option<RepositoryUrl>,
        key: Option<Typed<String>>,
        keys: KeysDoc,
        store: StoreSettings,
    ) -> Option<RepositoryConfig> {
        let found = &mut self.found;
        let key = key.and_then(|text| values::secret(&text, "key", found));
        let read_key = keys.read_key.is().and_then(|text| values::secret(&text, "read_key", found));
        let admin_key = keys.admin_key.is().and_then(|text| values::secret(&text, "admin_key", found));
        Some(RepositoryConfig { url: url?, key: key?, read_key, admin_key, store })
    }

    fn bad_id(&mut self, kind: &str, id: &Typed<String>) {
        self.found
            .add("E119", &id.spot, format!("\"{}\" is no id of a {kind}", values::shown(&id.value)))
            .hint("an id has 1 to 63 of a-z 0-9 . _ - and begins with a letter or digit");
    }

    fn required<T>(&mut self, value: Given<T>, key: &str, what: &str, id: &Typed<String>) -> Option<T> {
        if matches!(value, Given::Absent) {
            let message = format!("{what} \"{}\" has no `{key}`", values::shown(&id.value));
            let example = match key {
                "source" => "source = \"/srv/home\"",
                "repo" => "repo = \"main\", and [repository.main] in lifeboat.toml",
                "schedule" => "schedule = \"daily 02:00\"",
                "keep" => "keep = \"7d 4w 12m\"",
                "url" => "url = \"/srv/backup\"",
                _ => "key = \"file:/etc/lifeboat/writer.key\"",
            };
            self.found.add("E113", &id.spot, message).hint(format!("add {example}"));
        }
        value.is()
    }

    fn policy(&mut self, doc: PolicyDoc, defaults: &DefaultsDoc) -> Option<Policy> {
        let id = &doc.id;
        let name = id.value.parse::<PolicyName>().ok();
        if name.is_none() {
            self.bad_id("policy", id);
        }
        let DefaultsDoc { repo, schedule, timezone, keep, accept_partial, compression, drill } = doc.common;
        let defaults = defaults.clone();

        let source = self.required(doc.source, "source", "the policy", id);
        let source = source.and_then(|source| self.source(source));
        let repo = self.required(repo.or(defaults.repo), "repo", "the policy", id);
        let repository = repo.and_then(|repo| self.resolve(&repo, doc.keys));
        let schedule = self.required(schedule.or(defaults.schedule), "schedule", "the policy", id);
        let schedule = schedule.and_then(|schedule| timing::schedule(schedule, &mut self.found));
        let keep = self.required(keep.or(defaults.keep), "keep", "the policy", id);
        let keep = keep.and_then(|keep| timing::keep(keep, &mut self.found));
        let zone = match timezone.or(defaults.timezone) {
            Given::Absent => Some(TimeZone::UTC),
            Given::Broken => None,
            Given::Is(text) => values::zone(&text, &mut self.found),
        };
        let tags = values::tags(&doc.tags.is().unwrap_or_default(), &mut self.found);
        let allowed = doc.allow_unreadable.is().unwrap_or_default();
        let allow_unreadable = values::patterns(&allowed, "allow_unreadable", &mut self.found);
        let compression = match compression.or(defaults.compression) {
            Given::Absent => Some(Compression::default()),
            Given::Broken => None,
            Given::Is(text) => values::compression(&text, &mut self.found),
        };
        let drill = drill.or(defaults.drill).is().unwrap_or_default();
        let drill = DrillConfig { files: self.drill_files(drill.files) };

        if let (Some(source), Some(repository)) = (&source, &repository) {
            self.warn_of_a_repository_inside(source, repository);
        }
        Some(Policy {
            name: name?,
            source: source?.meaning,
            repository: repository?,
            schedule: schedule?,
            zone: zone?,
            keep: keep?,
            tags,
            accept_partial: accept_partial.or(defaults.accept_partial).is().is_some_and(|flag| flag.value),
            allow_unreadable,
            compression: compression?,
            drill,
        })
    }

    fn source(&mut self, doc: SourceDoc) -> Option<CheckedSource> {
        let SourceDoc {
            spot,
            paths,
            exclude,
            exclude_files,
            exclude_caches,
            one_file_system,
            ignore_inode,
            object_tags,
            store,
        } = doc;
        let found = &mut self.found;
        let typed = match paths {
            Given::Absent => {
                found.add("E113", &spot, "the source has no `paths`").hint("add paths = [\"/srv/home\"]");
                None
            }
            Given::Broken => None,
            Given::Is(typed) if typed.is_empty() => {
                found.add("E115", &spot, "the source names no path").hint("name at least one directory or file");
                None
            }
            Given::Is(typed) => Some(typed),
        };
        let mut paths: Vec<(PathBuf, Spot)> = Vec::new();
        let mut buckets = Vec::new();
        for text in typed.iter().flatten() {
            if text.value.contains("://") {
                let bucket = values::bucket(text, found);
                buckets.extend(bucket.filter(|bucket| !buckets.contains(bucket)));
                continue;
            }
            let Some(path) = values::absolute_path(text, "a source", found) else { continue };
            if let Some((outer, _)) = paths.iter().find(|(other, _)| path.starts_with(other)) {
                let message = format!("this source lies in {} and is saved with it already", outer.display());
                found.add("W114", &text.spot, message).hint("delete it");
            }
            if let Some((_, inner)) = paths.iter().find(|(other, _)| other.starts_with(&path) && *other != path) {
                let message = format!("this source lies in {} and is saved with it already", path.display());
                found.add("W114", inner, message).hint("delete it");
            }
            if !paths.iter().any(|(other, _)| *other == path) {
                paths.push((path, text.spot.clone()));
            }
        }
        let exclude = values::patterns(&exclude.is().unwrap_or_default(), "exclude", found);
        let files = exclude_files.is().unwrap_or_default();
        let exclude_files =
            files.iter().filter_map(|text| values::absolute_path(text, "a file of patterns", found)).collect();
        let store = cloud::settings(store, (!paths.is_empty()).then_some(cloud::Misplaced::Source), found);
        let on = |flag: Given<Typed<bool>>| flag.is().is_some_and(|flag| flag.value);
        if paths.is_empty() && buckets.is_empty() {
            return None;
        }
        if let Given::Is(flag) = &object_tags
            && flag.value
            && (!paths.is_empty() || buckets.iter().any(|bucket| bucket.cloud != Cloud::S3))
        {
            found
                .add("E123", &flag.spot, "`object_tags` belongs to buckets of S3, and this source names something else")
                .hint("remove it, or save what is no bucket of S3 by a policy of its own");
        }
        let meaning = Source {
            object_tags: on(object_tags),
            buckets,
            store,
            paths: paths.iter().map(|(path, _)| path.clone()).collect(),
            exclude,
            exclude_files,
            exclude_caches: on(exclude_caches),
            one_file_system: on(one_file_system),
            ignore_inode: on(ignore_inode),
        };
        Some(CheckedSource { meaning, places: paths })
    }

    /// The repository that `repo` names, or the one that it and the keys beside it make up.
    fn resolve(&mut self, repo: &Typed<String>, keys: KeysDoc) -> Option<RepositoryName> {
        if !values::looks_like_url(&repo.value) {
            let Ok(name) = repo.value.parse::<RepositoryName>() else {
                self.bad_id("repository", repo);
                return None;
            };
            for (key, given) in [("key", &keys.key), ("read_key", &keys.read_key), ("admin_key", &keys.admin_key)] {
                if let Given::Is(text) = given {
                    self.found
                        .add("E121", &text.spot, format!("`{key}` stands beside the name of a repository"))
                        .hint("the keys of a named repository stand in its [repository.ID]");
                }
            }
            if self.names == Names::Known && !self.places.contains_key(&name) {
                let finding = self.found.add("E116", &repo.spot, format!("there is no repository \"{name}\""));
                match nearest(name.as_str(), self.places.keys().map(RepositoryName::as_str)) {
                    Some(near) => finding.label(format!("did you mean \"{near}\"?")),
                    None => finding
                        .hint(format!("define [repository.{name}] in lifeboat.toml, or write a path and a `key`")),
                };
                return None;
            }
            return Some(name);
        }
        let url = values::repository_url(repo, &mut self.found);
        let key = match &keys.key {
            Given::Absent => {
                self.found
                    .add("E113", &repo.spot, "a repository given by its place has no `key`")
                    .hint("add key = \"file:/etc/lifeboat/writer.key\", or name a [repository.ID] of lifeboat.toml");
                None
            }
            given => given.clone().is(),
        };
        let config = self.with_keys(url, key, keys, StoreSettings::default())?;
        let name = RepositoryName::of_url(&config.url);
        match self.repositories.get(&name) {
            Some(Some(first)) if *first != config => {
                let finding =
                    self.found.add("E122", &repo.spot, "two policies open this repository with different keys");
                finding.hint("give it a name and its keys once, as a [repository.ID] in lifeboat.toml");
                if let Some(first) = self.unnamed.get(&name) {
                    finding.other(first);
                }
            }
            Some(_) => {}
            None => {
                self.unnamed.insert(name.clone(), repo.spot.clone());
                self.repositories.insert(name.clone(), Some(config));
            }
        }
        Some(name)
    }

    fn warn_of_a_repository_inside(&mut self, source: &CheckedSource, repository: &RepositoryName) {
        let Some(Some(config)) = self.repositories.get(repository) else { return };
        let Some(place) = config.url.address().directory() else { return };
        let inside = source.places.iter().find(|(path, _)| place.starts_with(path));
        // With patterns at work only the walk itself can tell.
        if let Some((_, spot)) =
            inside.filter(|_| source.meaning.exclude.is_empty() && source.meaning.exclude_files.is_empty())
        {
            self.found
                .add("W231", spot, format!("this source holds its own repository, {}", place.display()))
                .hint("exclude the repository: each run would save what the last one stored");
        }
    }

    fn drill_files(&mut self, files: Given<Typed<i64>>) -> u32 {
        let standard = DrillConfig::default().files;
        let Some(files) = files.is() else { return standard };
        match u32::try_from(files.value).ok().filter(|count| (1..=FILES_OF_A_DRILL_MAX).contains(count)) {
            Some(count) => count,
            None => {
                self.found
                    .add("E115", &files.spot, format!("a drill restores 1 to {FILES_OF_A_DRILL_MAX} files"))
                    .hint(format!("leave it out for {standard}"));
                standard
            }
        }
    }
}

/// A source and where each of its paths was written.
struct CheckedSource {
    meaning: Source,
    places: Vec<(PathBuf, Spot)>,
}
