//! Files that are replaced, cut, written to and removed while they are known and while they are sent.

use std::fs;
use std::time::Duration;

use super::{Site, body, field, text};

/// Bytes that do not fit into the buffers of a connection.
const LARGE: usize = 32 << 20;

/// Longer than a file is known without a look.
const LATER: Duration = Duration::from_millis(1300);

#[test]
fn change_is_seen_within_a_second() {
    let site = Site::new("");
    site.write("a.txt", "one");
    let (_, first) = site.get("/a.txt", &[]);
    assert_eq!(body(&first), "one");
    assert_eq!(site.get("/b.txt", &[]).0, 404);
    site.write("new", "two");
    fs::rename(site.path("new"), site.path("a.txt")).unwrap();
    site.write("b.txt", "there");
    std::thread::sleep(LATER);
    assert_eq!(body(&site.get("/a.txt", &[]).1), "two");
    assert_eq!(body(&site.get("/b.txt", &[]).1), "there");
    fs::remove_file(site.path("a.txt")).unwrap();
    std::thread::sleep(LATER);
    assert_eq!(site.get("/a.txt", &[]).0, 404);
}

#[test]
fn change_of_the_same_size_and_time_is_seen_too() {
    let site = Site::new("");
    site.write("a.txt", "one");
    assert_eq!(body(&site.get("/a.txt", &[]).1), "one");
    site.write("a.txt", "two");
    std::thread::sleep(LATER);
    assert_eq!(body(&site.get("/a.txt", &[]).1), "two");
}

/// The root is a link to a release, which is set to the next one.
#[test]
fn next_release_is_served_when_the_link_leads_there() {
    let site = Site::new("");
    let dir = site.dir.path();
    for release in ["1", "2"] {
        fs::create_dir(dir.join(release)).unwrap();
        fs::write(dir.join(release).join("a.txt"), release).unwrap();
    }
    fs::remove_dir(site.path("")).unwrap();
    std::os::unix::fs::symlink("1", dir.join("www")).unwrap();
    assert_eq!(body(&site.get("/a.txt", &[]).1), "1");
    std::os::unix::fs::symlink("2", dir.join("next")).unwrap();
    fs::rename(dir.join("next"), dir.join("www")).unwrap();
    std::thread::sleep(LATER);
    assert_eq!(body(&site.get("/a.txt", &[]).1), "2");
}

/// The bytes of a large file that is changed after the client has read some of it, and whether they end with the file.
#[track_caller]
fn sent_while(change: impl FnOnce(&Site)) -> (String, bool) {
    let site = Site::new("");
    site.write("a.txt", "a".repeat(LARGE));
    let mut client = site.ask("GET", "/a.txt", &["Connection: close"]);
    let head = client.head();
    assert_eq!(field(&head, "content-length"), Some(&*LARGE.to_string()));
    let begun = client.exactly(1000);
    // The buffers of both sides are full.
    std::thread::sleep(Duration::from_millis(200));
    change(&site);
    let sent = begun + &client.rest();
    let is_whole = sent.len() == LARGE;
    (sent, is_whole)
}

#[test]
fn file_that_is_replaced_renamed_or_removed_is_sent_to_its_end() {
    for change in ["replace", "rename", "remove"] {
        let (sent, is_whole) = sent_while(|site| match change {
            "replace" => {
                site.write("b.txt", "b".repeat(LARGE));
                fs::rename(site.path("b.txt"), site.path("a.txt")).unwrap();
            }
            "rename" => fs::rename(site.path("a.txt"), site.path("c.txt")).unwrap(),
            _ => fs::remove_file(site.path("a.txt")).unwrap(),
        });
        assert!(is_whole, "{change}: {} bytes", sent.len());
        assert!(sent.bytes().all(|byte| byte == b'a'), "{change}");
    }
}

#[test]
fn file_that_is_cut_or_written_to_ends_its_connection_early_without_other_bytes() {
    for change in ["cut", "overwrite", "append"] {
        let (sent, is_whole) = sent_while(|site| {
            let path = site.path("a.txt");
            match change {
                "cut" => fs::File::options()
                    .write(true)
                    .open(path)
                    .unwrap()
                    .set_len(5000)
                    .unwrap(),
                "overwrite" => fs::write(path, "b".repeat(LARGE)).unwrap(),
                _ => {
                    let mut file = fs::File::options().append(true).open(path).unwrap();
                    std::io::Write::write_all(&mut file, b"b").unwrap();
                }
            }
        });
        assert!(!is_whole, "{change}");
        assert!(sent.bytes().all(|byte| byte == b'a'), "{change}");
    }
}

#[test]
fn client_that_reads_slowly_gets_all_of_a_large_file_and_others_are_served_meanwhile() {
    let site = Site::new("");
    let content = text(3 << 20);
    site.write("a.txt", &content);
    site.write("b.txt", "small");
    let mut slow = site.ask("GET", "/a.txt", &[]);
    let head = slow.head();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut read = String::new();
    while read.len() < content.len() {
        read += &slow.exactly((content.len() - read.len()).min(1 << 19));
        assert_eq!(body(&site.get("/b.txt", &[]).1), "small");
    }
    assert!(read == content);
}
