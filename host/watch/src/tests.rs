//! With real files. Where only an event can have told, nothing is looked at
//! "now and then" for a day; where nothing but looking is left, the time is
//! paused and stands still while a look is under way.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Site {
    folder: TempDir,
    watch: Watch,
}

impl Site {
    /// Events only.
    fn heard() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), watch: Watch::with(events::start, DAY) }
    }

    /// A system that has no events.
    fn looked_at() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), watch: Watch::looking_only() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.at(name), text).unwrap();
    }

    /// As careful programs do it.
    fn replace(&self, name: &str, text: &str) {
        self.write(".new", text);
        std::fs::rename(self.at(".new"), self.at(name)).unwrap();
    }

    async fn changes(&self, names: &[&str]) -> Changes {
        let mut changes = self.watch.paths(names.iter().map(|name| self.at(name)).collect());
        changes.ready().await;
        changes
    }

    /// The names of the next report.
    async fn next(&self, changes: &mut Changes) -> Vec<String> {
        let changed = timeout(DAY / 2, changes.next()).await.unwrap();
        let name = |path: &PathBuf| path.strip_prefix(self.folder.path()).unwrap().display().to_string();
        changed.iter().map(name).collect()
    }
}

/// Nothing is reported for an hour of looking.
async fn assert_silent(changes: &mut Changes) {
    assert_eq!(timeout(Duration::from_secs(3600), changes.next()).await.ok(), None);
}

#[tokio::test]
async fn a_file_that_is_replaced_or_written_in_place_is_heard_of() {
    let site = Site::heard();
    site.write("a", "1");
    site.write("b", "1");
    let mut changes = site.changes(&["a", "b"]).await;
    site.replace("a", "2");
    assert_eq!(site.next(&mut changes).await, ["a"]);
    // The new file has another inode.
    site.write("a", "3");
    assert_eq!(site.next(&mut changes).await, ["a"]);
    site.replace("b", "2");
    assert_eq!(site.next(&mut changes).await, ["b"]);
}

#[tokio::test]
async fn the_swapped_link_of_a_config_map_is_heard_of() {
    let site = Site::heard();
    for version in ["..1", "..2", "..3"] {
        std::fs::create_dir(site.at(version)).unwrap();
        site.write(&format!("{version}/key"), version);
    }
    symlink("..1", site.at("..data")).unwrap();
    symlink("..data/key", site.at("key")).unwrap();
    let mut changes = site.changes(&["key"]).await;
    for version in ["..2", "..3"] {
        symlink(version, site.at("..tmp")).unwrap();
        std::fs::rename(site.at("..tmp"), site.at("..data")).unwrap();
        assert_eq!(site.next(&mut changes).await, ["key"]);
    }
    // Nothing has happened in the folder that it is named in.
    site.write("..3/key", "written in place");
    assert_eq!(site.next(&mut changes).await, ["key"]);
}

#[tokio::test]
async fn a_file_that_goes_and_comes_back_is_heard_of() {
    let site = Site::heard();
    site.write("a", "1");
    let mut changes = site.changes(&["a"]).await;
    std::fs::remove_file(site.at("a")).unwrap();
    assert_eq!(site.next(&mut changes).await, ["a"]);
    site.write("a", "1");
    assert_eq!(site.next(&mut changes).await, ["a"]);
}

#[tokio::test]
async fn a_file_is_heard_of_that_comes_later_with_its_folder() {
    let site = Site::heard();
    let mut changes = site.changes(&["x/y/a"]).await;
    for text in ["1", "2"] {
        std::fs::create_dir_all(site.at("x/y")).unwrap();
        site.write("x/y/a", text);
        assert_eq!(site.next(&mut changes).await, ["x/y/a"]);
        // Another folder under the same name has to be listened to anew.
        std::fs::remove_dir_all(site.at("x")).unwrap();
        assert_eq!(site.next(&mut changes).await, ["x/y/a"]);
    }
}

#[tokio::test]
async fn a_file_deep_in_a_folder_is_heard_of_also_where_that_is_new() {
    let site = Site::heard();
    std::fs::create_dir(site.at("adapter")).unwrap();
    site.write("adapter/adapter.toml", "1");
    let mut changes = site.changes(&["adapter"]).await;
    std::fs::create_dir_all(site.at("adapter/cases/more")).unwrap();
    site.write("adapter/cases/more/one.json", "1");
    assert_eq!(site.next(&mut changes).await, ["adapter"]);
    site.write("adapter/cases/more/one.json", "2");
    assert_eq!(site.next(&mut changes).await, ["adapter"]);
}

#[tokio::test]
async fn other_paths_are_listened_to_when_they_change_and_let_go_of_at_the_end() {
    let site = Site::heard();
    for folder in ["one", "two"] {
        std::fs::create_dir(site.at(folder)).unwrap();
        site.write(&format!("{folder}/a"), "1");
    }
    let listened = |site: &Site| site.watch.shared.events.folders();
    let mut changes = site.changes(&["one/a"]).await;
    let (one, two) = (site.at("one").canonicalize().unwrap(), site.at("two").canonicalize().unwrap());
    assert_eq!(listened(&site), [one]);
    changes.set_paths(vec![site.at("two/a")]);
    changes.ready().await;
    assert_eq!(listened(&site), std::slice::from_ref(&two));
    site.write("one/a", "2");
    site.write("two/a", "2");
    assert_eq!(site.next(&mut changes).await, ["two/a"]);

    drop(changes);
    let other = site.changes(&["two/a"]).await;
    assert_eq!(listened(&site), [two]);
    drop(other);
    // Whoever looks next lets go of it.
    let mut nothing = site.changes(&[]).await;
    while !listened(&site).is_empty() {
        nothing.step().await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_events_the_files_are_looked_at() {
    let site = Site::looked_at();
    site.write("a", "1");
    let mut changes = site.changes(&["a", "later"]).await;
    site.replace("a", "2");
    assert_eq!(site.next(&mut changes).await, ["a"]);
    // As long, and within the resolution of the time stamps.
    site.write("a", "3");
    assert_eq!(site.next(&mut changes).await, ["a"]);
    site.write("later", "1");
    assert_eq!(site.next(&mut changes).await, ["later"]);
    std::fs::remove_file(site.at("a")).unwrap();
    assert_eq!(site.next(&mut changes).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn the_same_content_in_another_file_is_no_report() {
    let site = Site::looked_at();
    site.write("a", "1");
    let mut changes = site.changes(&["a"]).await;
    site.replace("a", "1");
    assert_silent(&mut changes).await;
    std::fs::remove_file(site.at("a")).unwrap();
    site.write("a", "1");
    assert_silent(&mut changes).await;
}

#[tokio::test(start_paused = true)]
async fn what_editors_leave_beside_a_file_is_no_report() {
    let site = Site::looked_at();
    std::fs::create_dir(site.at("adapter")).unwrap();
    site.write("adapter/a.rs", "1");
    let mut changes = site.changes(&["adapter"]).await;
    for name in [".a.rs.swp", "a.rs~", "4913", "#a.rs#", ".#a.rs", "a.rs___jb_tmp___"] {
        site.write(&format!("adapter/{name}"), "1");
    }
    assert_silent(&mut changes).await;
    site.write("adapter/a.rs", "2");
    assert_eq!(site.next(&mut changes).await, ["adapter"]);
}

#[tokio::test(start_paused = true)]
async fn a_half_written_file_is_no_report() {
    let site = Site::looked_at();
    site.write("a", "");
    let mut changes = site.changes(&["a"]).await;
    let mut text = String::new();
    for _ in 0..5 {
        // Between any two looks something is added.
        text.push('x');
        site.write("a", &text);
        while changes.looking.is_none() {
            changes.step().await;
        }
        while changes.looking.is_some() {
            changes.step().await;
        }
        assert!(changes.changed.is_empty(), "{:?}", changes.changed);
    }
    assert_eq!(site.next(&mut changes).await, ["a"]);
    assert_silent(&mut changes).await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_given_up_and_begun_again_misses_nothing() {
    let site = Site::looked_at();
    site.write("a", "1");
    let mut changes = site.changes(&["a"]).await;
    site.write("a", "2");
    let mut tries = 0;
    while timeout(Duration::from_millis(1), changes.next()).await.is_err() {
        tries += 1;
        assert!(tries < 100_000);
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_may_not_be_read_has_changed() {
    use std::os::unix::fs::PermissionsExt;

    let site = Site::looked_at();
    site.write("a", "1");
    let mut changes = site.changes(&["a"]).await;
    let set = |mode| std::fs::set_permissions(site.at("a"), PermissionsExt::from_mode(mode)).unwrap();
    set(0o000);
    if std::fs::read(Path::new(&site.at("a"))).is_ok() {
        // Root reads everything.
        assert_silent(&mut changes).await;
        return;
    }
    assert_eq!(site.next(&mut changes).await, ["a"]);
}
