//! `labels.csv`: a line `path,label` for each picture.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::formats::{csv, text};

/// The file's name.
pub(super) const LABELS: &str = "labels.csv";

/// Labels by path, with forward slashes, from the folder that the file is in. A first line `path,label` is a header, and so is another that
/// names no file and a label that no other line has; what more fields a line has means nothing.
///
/// # Errors
/// For a line without path and label, a path that leads out of the folder, and two labels of one picture.
pub(super) fn read(file: &Path) -> Result<BTreeMap<String, String>> {
    let text = text::read(file, "cannot read the labels")?;
    let (mut labels, mut first) = (BTreeMap::new(), None);
    for (number, line) in text.lines().enumerate() {
        let wrong = |what: String| Err(Error::input(format!("{}: line {}: {what}", file.display(), number + 1)));
        let fields = csv::fields(line);
        let [path, label, ..] = &fields[..] else {
            match line.trim().is_empty() {
                true => continue,
                false => return wrong(format!("expected path,label, such as cats/1.jpg,cat, got '{line}'")),
            }
        };
        let (path, label) = (path.trim().replace('\\', "/"), label.trim());
        if number == 0 && is_header(&path, label) {
            continue;
        }
        // The same file by another way is the same picture.
        let rooted = path.starts_with('/') || (cfg!(windows) && path.contains(':'));
        let path = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/");
        if path.is_empty() || label.is_empty() {
            return wrong(format!("expected path,label, such as cats/1.jpg,cat, got '{line}'"));
        }
        if rooted || path.split('/').any(|part| part == "..") {
            let path = fields[0].trim();
            return wrong(format!("'{path}' leads out of the folder; expected a path inside it"));
        }
        if number == 0 {
            first = Some((path.clone(), label.to_string()));
        }
        match labels.insert(path.clone(), label.to_string()) {
            Some(before) if before != label => {
                return wrong(format!("'{path}' is '{label}' here and '{before}' above; expected one label"));
            }
            _ => {}
        }
    }
    if let Some((path, label)) = first
        && labels.len() > 1
        && !file.with_file_name(&path).exists()
        && labels.values().filter(|other| **other == label).count() == 1
    {
        labels.remove(&path);
    }
    Ok(labels)
}

fn is_header(path: &str, label: &str) -> bool {
    let (path, label) = (path.to_lowercase(), label.to_lowercase());
    ["path", "file", "filename", "file_name", "image", "image_path", "img", "id"].contains(&&path[..])
        && ["label", "class", "category", "target"].contains(&&label[..])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn of(text: &str) -> Result<Vec<(String, String)>, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(LABELS);
        fs::write(&file, text).unwrap();
        fs::write(dir.path().join("b, c.jpg"), "").unwrap();
        let refused = |error: Error| error.to_string().rsplit_once("labels.csv: ").unwrap().1.to_string();
        read(&file).map(|labels| labels.into_iter().collect()).map_err(refused)
    }

    #[test]
    fn a_line_for_each_picture() {
        let expected = [("a/1.jpg", "cat"), ("b, c.jpg", "big dog")].map(|(path, label)| (path.into(), label.into()));
        for text in [
            "path,label\na/1.jpg,cat\n\"b, c.jpg\",big dog\n",
            "\u{feff}Path,Label\r\na\\1.jpg, cat \r\n\r\n\"b, c.jpg\",big dog,more\r\n",
            "\"b, c.jpg\",big dog\n./a/1.jpg,cat\na//./1.jpg,cat",
            "id,breed\na/1.jpg,cat\n\"b, c.jpg\",big dog\n",
        ] {
            assert_eq!(of(text).unwrap(), expected, "{text:?}");
        }
        assert_eq!(of("path,label\n").unwrap(), []);
    }

    #[test]
    fn refusals_name_the_line() {
        for (text, refusal) in [
            ("path,label\nx.jpg\n", "line 2: expected path,label, such as cats/1.jpg,cat, got 'x.jpg'"),
            ("x.jpg,\n", "line 1: expected path,label, such as cats/1.jpg,cat, got 'x.jpg,'"),
            ("x.jpg,a\nx.jpg,b", "line 2: 'x.jpg' is 'b' here and 'a' above; expected one label"),
            ("../x.jpg,a", "line 1: '../x.jpg' leads out of the folder; expected a path inside it"),
            ("/x.jpg,a", "line 1: '/x.jpg' leads out of the folder; expected a path inside it"),
        ] {
            assert_eq!(of(text).unwrap_err(), refusal);
        }
    }
}
