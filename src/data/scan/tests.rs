//! Which pictures a folder holds, and of which class they are.

use super::super::Labels;
use super::*;
use std::fs;
use tempfile::TempDir;

/// A folder with files of these relative paths; they are pictures by name only.
fn folder(files: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "not really a picture").unwrap();
    }
    dir
}

fn options() -> ScanOptions {
    ScanOptions { split: 0.5, seed: 1, val: None, classes: None }
}

fn relatives(items: &[Item]) -> Vec<&str> {
    items.iter().map(|item| &item.relative[..]).collect()
}

fn all(dataset: &Dataset) -> Vec<(&str, &str)> {
    let mut all: Vec<_> = dataset.train.iter().chain(&*dataset.val).collect();
    all.sort_by_key(|item| &item.relative);
    all.iter().map(|item| (&item.relative[..], &dataset.classes[item.class as usize][..])).collect()
}

fn refusal(dir: &Path, options: &ScanOptions) -> String {
    let error = scan(dir, options).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn a_folder_per_class_with_folders_inside() {
    let dir =
        folder(&["dog/1.JPG", "dog/more/deep/2.png", "cat/b.webp", "cat/a.jpeg", "notes/readme.txt", "stray.jpg"]);
    let dataset = scan(dir.path(), &options()).unwrap();
    assert_eq!(dataset.classes, ["cat", "dog"]);
    assert!(dataset.notes[0].contains("left out 1 picture beside the classes' folders, such as stray.jpg"));
    let expected = [("cat/a.jpeg", "cat"), ("cat/b.webp", "cat"), ("dog/1.JPG", "dog"), ("dog/more/deep/2.png", "dog")];
    assert_eq!(all(&dataset), expected);
}

#[test]
fn file_names_that_begin_with_the_class() {
    let dir = folder(&["cat.0.jpg", "cat_1.png", "dog-17.bmp", "dog2.gif", ".dog.3.jpg", "notes.csv"]);
    let dataset = scan(dir.path(), &options()).unwrap();
    let expected = [("cat.0.jpg", "cat"), ("cat_1.png", "cat"), ("dog-17.bmp", "dog"), ("dog2.gif", "dog")];
    assert_eq!(all(&dataset), expected);
}

#[test]
fn a_label_file_decides_where_there_is_one() {
    let dir = folder(&["x/1.jpg", "x/2.jpg", "3.jpg", "4.jpg", "x/unknown.jpg", "cat.9.jpg"]);
    let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
    write("labels.csv", "path,label\nx/1.jpg,cat\nx/2.jpg,dog\n3.jpg,dog\n4.jpg,cat\ngone.jpg,cat\n");
    let dataset = scan(dir.path(), &options()).unwrap();
    let expected = [("3.jpg", "dog"), ("4.jpg", "cat"), ("gone.jpg", "cat"), ("x/1.jpg", "cat"), ("x/2.jpg", "dog")];
    assert_eq!((all(&dataset), dataset.labels), (expected.into(), Labels::LabelFile));
    assert!(
        dataset.notes[0].contains("left out 2 pictures that labels.csv does not name, such as cat.9.jpg"),
        "{:?}",
        dataset.notes
    );
    for (text, refused) in [
        ("path,label\n", "labels.csv: names no picture in"),
        ("", "labels.csv: names no picture in"),
        ("cat,x/1.jpg\ndog,x/2.jpg\nowl,3.jpg\n", "none of the files that it names is there, such as dog; expected"),
    ] {
        write("labels.csv", text);
        let refusal = refusal(dir.path(), &options());
        assert!(refusal.contains(refused), "{refusal}");
    }
    // A header of other words.
    write("labels.csv", "id,breed\nx/1.jpg,cat\nx/2.jpg,dog\n3.jpg,dog\n4.jpg,cat\n");
    assert_eq!(scan(dir.path(), &options()).unwrap().classes, ["cat", "dog"]);
}

#[test]
fn a_label_file_beside_train_and_val() {
    let dir = folder(&["train/1.jpg", "train/2.jpg", "val/3.jpg", "val/4.jpg"]);
    let labels = "train/1.jpg,cat\ntrain/2.jpg,dog\nval/3.jpg,dog\nval/4.jpg,cat";
    fs::write(dir.path().join("labels.csv"), labels).unwrap();
    let dataset = scan(dir.path(), &options()).unwrap();
    assert_eq!(relatives(&dataset.train), ["train/1.jpg", "train/2.jpg"]);
    assert_eq!(relatives(&dataset.val), ["val/3.jpg", "val/4.jpg"]);
    assert!(dataset.notes.is_empty(), "{:?}", dataset.notes);
    fs::write(dir.path().join("val/labels.csv"), "3.jpg,cat\n4.jpg,cat").unwrap(); // the nearer one counts
    let dataset = scan(dir.path(), &options()).unwrap();
    assert_eq!(dataset.val.iter().map(|item| item.class).collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn train_and_val_folders_with_either_layout_inside() {
    let dir = folder(&["train/cat/1.jpg", "train/dog/1.jpg", "val/cat.9.jpg", "val/dog.9.jpg", "test/cat.5.jpg"]);
    let dataset = scan(dir.path(), &options()).unwrap();
    assert_eq!(relatives(&dataset.train), ["train/cat/1.jpg", "train/dog/1.jpg"]);
    assert!(
        dataset.notes[0].ends_with("left out what is beside the folders train and val: test"),
        "{:?}",
        dataset.notes
    );
    fs::write(dir.path().join("cat.stray.jpg"), "").unwrap();
    fs::write(dir.path().join("notes.txt"), "").unwrap();
    let notes = scan(dir.path(), &options()).unwrap().notes;
    assert!(notes[0].ends_with("the folders train and val: cat.stray.jpg, test"), "{notes:?}");
    assert_eq!(relatives(&dataset.val), ["val/cat.9.jpg", "val/dog.9.jpg"]);
    let (measured, _) = scan_labelled(dir.path(), &dataset.classes).unwrap();
    assert_eq!(relatives(&measured), ["cat.9.jpg", "dog.9.jpg"]);
    let dir = folder(&["train/cat.1.jpg", "train/dog.1.jpg", "validation/cat.9.jpg"]);
    assert_eq!(relatives(&scan(dir.path(), &options()).unwrap().val), ["validation/cat.9.jpg"]);
    let dir = folder(&["Train/cat.1.jpg", "Train/dog.1.jpg", "VAL/cat.9.jpg"]);
    assert_eq!(relatives(&scan(dir.path(), &options()).unwrap().val), ["VAL/cat.9.jpg"]);
}

#[test]
fn a_stray_folder_does_not_hide_the_files_beside_it() {
    let dir = folder(&["cat.0.jpg", "cat.1.jpg", "dog.0.jpg", "dog.1.jpg", "backup/cat.0.jpg"]);
    let dataset = scan(dir.path(), &options()).unwrap();
    assert_eq!(all(&dataset).len(), 4);
    assert!(dataset.notes[0].contains("left out 1 picture in the folder 'backup'"), "{:?}", dataset.notes);
    let both = folder(&["cat.0.jpg", "dog.0.jpg", "cat/1.jpg", "dog/1.jpg"]);
    let message = refusal(both.path(), &options());
    assert!(message.contains("pictures in 2 folders (cat, dog) and 2 pictures beside them (cat.0.jpg, ..)"));
}

#[test]
fn a_validation_folder_inside_is_no_class() {
    let dir = folder(&["cat/1.jpg", "dog/1.jpg", "held out/cat.9.jpg"]);
    let val = Some(dir.path().join("held out"));
    let dataset = scan(dir.path(), &ScanOptions { val, ..options() }).unwrap();
    assert_eq!(
        (&dataset.classes[..], relatives(&dataset.val)),
        (&["cat".into(), "dog".into()][..], vec!["held out/cat.9.jpg"])
    );
    let message = refusal(dir.path(), &ScanOptions { val: Some(dir.path().join("dog/..")), ..options() });
    assert!(message.contains("this is the folder of the training pictures"), "{message}");
    let message = refusal(&dir.path().join("cat"), &ScanOptions { val: Some(dir.path().into()), ..options() });
    assert!(message.contains("cat, is inside; expected other pictures"), "{message}");
    assert!(dataset.notes[0].contains("no pictures of 1 of the 2 classes"), "{:?}", dataset.notes);
    assert_eq!(dataset.notes.len(), 1);
}

#[test]
fn a_folder_without_pictures_is_told() {
    let dir = folder(&["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg", "bird/readme.txt"]);
    let dataset = scan(dir.path(), &options()).unwrap();
    assert_eq!(dataset.classes, ["cat", "dog"]);
    assert!(dataset.notes[0].ends_with("no pictures in bird, which makes no class"), "{:?}", dataset.notes);
}

#[cfg(unix)]
#[test]
fn class_names_can_be_printed() {
    let message = refusal(folder(&["cat/1.jpg", "do\x1bg/1.jpg"]).path(), &options());
    assert!(message.ends_with("the class name 'do\\u{1b}g' has control characters; rename it"), "{message}");
}

#[test]
fn a_validation_folder_replaces_the_split() {
    let (dir, val) = (folder(&["cat.0.jpg", "dog.0.jpg"]), folder(&["dog/1.jpg"]));
    let dataset = scan(dir.path(), &ScanOptions { val: Some(val.path().into()), ..options() }).unwrap();
    assert_eq!((dataset.train.len(), dataset.val.len(), dataset.val[0].class), (2, 1, 1));
    assert!(dataset.notes[0].contains("no pictures of 1 of the 2 classes (cat)"), "{:?}", dataset.notes);
    let foreign = folder(&["bird/1.jpg"]);
    let message = refusal(dir.path(), &ScanOptions { val: Some(foreign.path().into()), ..options() });
    assert!(message.contains("class 'bird' (of") && message.contains("cat, dog"), "{message}");
    let message = refusal(dir.path(), &ScanOptions { val: Some("/no/such".into()), ..options() });
    assert!(message.starts_with("/no/such: no such folder"), "{message}");
}

/// Where the validation pictures are does not show in their names, unless they are inside the folder; else a run could not
/// be resumed after either was moved.
#[test]
fn names_do_not_say_where_the_validation_folder_is() {
    let place = folder(&["all/cat/1.jpg", "all/dog/1.jpg", "all/held/cat.9.jpg", "one/cat.9.jpg", "two/cat.9.jpg"]);
    let val_of = |val: &str| {
        let val = Some(place.path().join(val));
        let dataset = scan(&place.path().join("all"), &ScanOptions { val, ..options() }).unwrap();
        relatives(&dataset.val).join(" ")
    };
    for outside in ["one", "two", "all/../one"] {
        assert_eq!(val_of(outside), "../val/cat.9.jpg", "{outside}");
    }
    for inside in ["all/held", "one/../all/held", "all/cat/../held"] {
        assert_eq!(val_of(inside), "held/cat.9.jpg", "{inside}");
    }
}

#[test]
fn labels_follow_a_checkpoints_classes() {
    let dir = folder(&["dog/1.jpg", "dog/2.jpg"]);
    let (items, _) = scan_labelled(dir.path(), &["zebra".into(), "dog".into()]).unwrap();
    assert_eq!(items.iter().map(|item| item.class).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn files_of_unknown_extension_are_pictures_by_their_first_bytes() {
    let dir = folder(&["cat.0.jpg", "cat.1.jpg", "dog.0.jpg", "BMW.txt"]);
    fs::write(dir.path().join("dog1"), b"\x89PNG\r\n\x1a\n and so on").unwrap();
    fs::write(dir.path().join("BMW.txt"), b"BM, a text that begins like a bitmap").unwrap();
    let dataset = scan(dir.path(), &options()).unwrap();
    assert_eq!(all(&dataset).last(), Some(&("dog1", "dog")));
    assert_eq!(dataset.classes, ["cat", "dog"]);
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_loops_end() {
    let dir = folder(&["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg"]);
    let elsewhere = folder(&["x/3.jpg"]);
    let link = |from: &Path, to: &str| std::os::unix::fs::symlink(from, dir.path().join(to)).unwrap();
    link(dir.path(), "cat/up");
    link(&dir.path().join("cat"), "cat/self");
    link(&elsewhere.path().join("x"), "dog/more");
    link(Path::new("/no/such/picture"), "dog/gone.jpg");
    let dataset = scan(dir.path(), &options()).unwrap();
    let names: Vec<_> = all(&dataset).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg", "dog/gone.jpg", "dog/more/3.jpg"]);
}

#[test]
fn refusals_say_what_came_and_what_to_do() {
    let empty = folder(&[]);
    assert!(refusal(&empty.path().join("x"), &options()).contains("no such folder"));
    assert!(refusal(empty.path(), &options()).contains("no pictures"));
    let file = folder(&["cat.0.jpg"]);
    assert!(refusal(&file.path().join("cat.0.jpg"), &options()).contains("this is a file"));
    assert!(refusal(file.path(), &options()).contains("one class only, 'cat' (1 picture)"));
    let inside = folder(&["train/cat.0.jpg", "train/dog.0.jpg"]);
    assert!(refusal(inside.path(), &options()).contains("If the classes are inside it, give"));
    let nameless = folder(&["cat.0.jpg", "17.jpg"]);
    assert!(
        refusal(nameless.path(), &options()).contains("1 of 2 pictures whose name gives no class, such as '17.jpg'")
    );
    let few = folder(&["cat.0.jpg", "cat.1.jpg", "dog.0.jpg"]);
    assert!(refusal(few.path(), &options()).contains("class 'dog' has 1 picture;"));
    assert!(refusal(few.path(), &ScanOptions { split: 1.0, ..options() }).contains("the split is 1"));
}
