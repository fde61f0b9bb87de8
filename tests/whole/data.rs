//! Folders as they are, end to end: what `convoy data` says of them, what training makes of broken files, the cache of decoded pictures,
//! classes of different sizes, augmentation.

use crate::common;
use crate::common::binary::{Place, picture};
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::Value;

const TRAIN: &str = "train pictures --model four-layer --image-size 32 --batch-size 4 --seed 7 --lr 0.001 --out .";

/// A JPEG that ends early.
fn truncated(kept: f64) -> Vec<u8> {
    let noise = RgbImage::from_fn(64, 64, |x, y| Rgb([(x * 37 + y * 101) as u8, (x * y) as u8, (x ^ y) as u8 * 3]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    noise.write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
    let mut bytes = bytes.into_inner();
    bytes.truncate((bytes.len() as f64 * kept) as usize);
    bytes
}

/// Forty good pictures, and one of each kind of broken file.
fn dirty() -> Place {
    let place = Place::new();
    place.pictures("pictures", 20);
    place.write("pictures/cat.empty.jpg", "");
    place.write("pictures/cat.text.jpg", "Not a picture at all");
    place.write("pictures/dog.most.jpg", truncated(0.9));
    place.write("pictures/dog.little.jpg", truncated(0.2));
    let mut huge = std::io::Cursor::new(Vec::new());
    picture(1, true).write_to(&mut huge, ImageFormat::Bmp).unwrap();
    let mut huge = huge.into_inner();
    huge[18..26].copy_from_slice(&[0x60, 0xEA, 0, 0, 0x60, 0xEA, 0, 0]); // 60000 x 60000
    place.write("pictures/dog.huge.bmp", huge);
    std::fs::create_dir(place.path("pictures/cat.folder.jpg")).unwrap();
    place.write("pictures/.cat.hidden.jpg", "");
    place
}

fn strings<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    list.as_array().unwrap().iter().map(|entry| entry[key].as_str().unwrap()).collect()
}

#[test]
fn data_tells_what_a_folder_holds() {
    let place = dirty();
    std::fs::copy(place.path("pictures/cat.0.png"), place.path("pictures/dog.copy.png")).unwrap();
    let told = place.convoy("data pictures --json").json();
    assert_eq!((&told["pictures"], &told["labels"]), (&46.into(), &"file-names".into()));
    assert_eq!(strings(&told["classes"], "class"), ["cat", "dog"]);
    assert_eq!((&told["classes"][0]["n"], &told["classes"][1]["n"]), (&22.into(), &24.into()));
    assert_eq!((&told["split"]["share"], &told["split"]["seed"]), (&0.9.into(), &0.into()));
    let mut unreadable = strings(&told["unreadable"], "path");
    unreadable.sort();
    assert_eq!(unreadable, ["cat.empty.jpg", "cat.text.jpg", "dog.huge.bmp", "dog.little.jpg"]);
    assert_eq!(strings(&told["damaged"], "path"), ["dog.most.jpg"]);
    assert_eq!((&told["sizes"]["smallest"], &told["formats"]["PNG"]), (&vec![40, 36].into(), &41.into()));
    let [duplicate] = &told["duplicates"].as_array().unwrap()[..] else { panic!("{told}") };
    assert_eq!(duplicate["labels_differ"], true);
    let text = place.convoy("data pictures").ok().stdout;
    for line in
        ["46 pictures of 2 classes, by the files' names", "unreadable, left out: 4", "cat.empty.jpg: empty file"]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
    let quick = place.convoy("data pictures --quick --json").json();
    assert!(quick.get("unreadable").is_none() && quick["pictures"] == 46);
    let list = place.convoy("data pictures --list --seed 5").ok().stdout;
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!((lines.len(), lines[0]), (47, "path,label,split"));
    let count = |end: &str| lines.iter().filter(|line| line.ends_with(end)).count();
    assert_eq!([count(",cat,train"), count(",cat,val"), count(",dog,train"), count(",dog,val")], [20, 2, 22, 2]);
    assert!(lines[1].starts_with("pictures/cat.0.png,cat,") && lines.is_sorted_by_key(|line| line.split(',').next()));
    place.convoy("data nowhere").refused(2, &["nowhere", "no such folder"]);
}

/// Broken files are named once, and those that are used all the same are told; the run goes to its end.
#[test]
fn dirty_folders_are_trained_on() {
    let place = dirty();
    let ran = place.convoy(&format!("{TRAIN} --epochs 3 --name run")).ok();
    for (file, reason) in [
        ("cat.empty.jpg", "empty file"),
        ("cat.text.jpg", "not a picture: begins with 'Not a pictur'"),
        ("dog.little.jpg", "truncated JPEG"),
        ("dog.huge.bmp", "claims 60000 x 60000 = 3600 megapixels, more than 100"),
        ("dog.most.jpg", "truncated JPEG: 8"),
    ] {
        let lines: Vec<&str> = ran.stderr.lines().filter(|line| line.contains(file)).collect();
        assert!(lines.len() == 1 && lines[0].contains(reason), "{file}: {lines:?}");
    }
    assert_eq!(place.text("run/skipped.csv").lines().count(), 1 + 4);
    assert!(ran.stdout.contains("epoch:3/3,avg_loss:"), "{}", ran.stdout);
}

/// As a user who may not read one of the pictures and may write nothing beside them.
#[cfg(unix)]
#[test]
fn what_may_not_be_read_is_skipped() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let place = Place::new();
    place.pictures("pictures", 12);
    place.pictures("pictures/cat.more", 1);
    let allow = |path: &str, mode: u32| {
        std::fs::set_permissions(place.path(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    std::fs::create_dir(place.path("runs")).unwrap();
    ["pictures/cat.3.png", "pictures/dog.5.png"].iter().for_each(|file| allow(file, 0));
    [(".", 0o755), ("pictures", 0o555), ("runs", 0o777)].iter().for_each(|(path, mode)| allow(path, *mode));
    let reads_all = std::fs::File::open(place.path("pictures/cat.3.png")).is_ok();
    let run = |arguments: &str| {
        let mut command = place.command(arguments);
        if reads_all {
            command.uid(65_534).gid(65_534); // root may read everything, nobody may not
        }
        common::binary::Ran::from(command.output().expect("the binary starts"))
    };
    let ran = run(&format!("{TRAIN}/runs --epochs 2 --name run")).ok();
    for file in ["cat.3.png", "dog.5.png"] {
        let lines: Vec<&str> = ran.stderr.lines().filter(|line| line.contains(file)).collect();
        assert!(lines.len() == 1 && lines[0].to_lowercase().contains("permission denied"), "{file}: {}", ran.stderr);
        assert!(place.text("runs/run/skipped.csv").contains(file));
    }
    allow("pictures/cat.more", 0);
    let ran = run(&format!("{TRAIN}/runs --epochs 1 --name other")).ok();
    assert!(
        ran.stderr.contains("left out the folder") && ran.stderr.contains("cat.more: permission denied"),
        "{}",
        ran.stderr
    );
    ["pictures", "pictures/cat.more"].iter().for_each(|path| allow(path, 0o755));
}

#[test]
fn the_cache_changes_nothing() {
    let place = Place::new();
    place.pictures("pictures", 8);
    place.write("pictures/dog.most.jpg", truncated(0.9));
    let train = |options: &str| place.convoy(&format!("{TRAIN} {options}")).ok();
    let last = |name: &str| place.read(&format!("{name}/last.safetensors"));
    let none = train("--epochs 2 --name none --cache off");
    assert!(!none.stdout.contains("cache:") && !place.path(".caches").exists());
    let first = train("--epochs 2 --name first --cache kept");
    assert!(first.stdout.contains("cache: 0 decoded pictures in "), "{}", first.stdout);
    let second = train("--epochs 2 --name second --cache kept");
    assert!(second.stdout.contains("cache: 17 decoded pictures in "), "{}", second.stdout);
    assert!(second.stderr.contains("dog.most.jpg: truncated JPEG"), "told from the cache too: {}", second.stderr);
    train("--max-steps 5 --name parted --cache kept");
    place.convoy("train --resume parted --max-steps 8 --cache off").ok();
    train("--max-steps 8 --name straight --cache kept");
    assert!(last("none") == last("first") && last("none") == last("second"), "the cache changed the weights");
    assert!(last("parted") == last("straight"), "a resumed run differs");
    // What was drawn anew is decoded anew.
    picture(99, true).save(place.path("pictures/cat.0.png")).unwrap();
    train("--epochs 2 --name changed --cache kept");
    train("--epochs 2 --name fresh --cache off");
    assert!(last("changed") == last("fresh") && last("changed") != last("none"), "a changed picture");
    let listed = place.convoy("cache --cache kept").ok().stdout;
    assert!(listed.starts_with("decoded: pictures-37x37-") && listed.contains(", of "), "{listed}");
    assert!(place.convoy("cache --cache kept --clear").ok().stdout.starts_with("deleted 1 file"));
    assert!(!place.path("kept/decoded").exists());
    place.write("file", "");
    place.convoy(&format!("{TRAIN} --cache file")).refused(2, &["file", "decoded pictures"]);
}

#[test]
fn classes_of_different_sizes() {
    let place = Place::new();
    place.pictures("pictures", 4);
    for i in 4..16 {
        picture(2 * i, true).save(place.path(&format!("pictures/cat.{i}.png"))).unwrap();
    }
    let run = |name: &str, balance: &str| {
        place.convoy(&format!("{TRAIN} --max-steps 4 --name {name} --balance {balance}")).ok();
        place.read(&format!("{name}/last.safetensors"))
    };
    let [none, loss, sample] = ["none", "loss", "sample"].map(|balance| run(balance, balance));
    assert!(none != loss && none != sample && loss != sample);
    for balance in ["loss", "sample"] {
        place.convoy(&format!("{TRAIN} --max-steps 2 --name {balance}-parted --balance {balance}")).ok();
        place.convoy(&format!("train --resume {balance}-parted --max-steps 4")).ok();
        let parted = place.read(&format!("{balance}-parted/last.safetensors"));
        assert!(parted == place.read(&format!("{balance}/last.safetensors")), "{balance}: a resumed run differs");
    }
    assert!(place.convoy("data pictures").ok().stdout.contains("4.0 times the pictures of the smallest"));
    // A batch that is larger than the data set; a class of one picture.
    place.convoy(&format!("{TRAIN} --epochs 2 --batch-size 1000 --name large")).ok();
    std::fs::create_dir(place.path("few")).unwrap();
    ["cat.0.jpg", "cat.1.jpg", "dog.0.jpg"].iter().for_each(|file| place.write(&format!("few/{file}"), ""));
    let line = "train few --model four-layer";
    place.convoy(line).refused(2, &["class 'dog' has 1 picture", "expected 2 or more", "Add pictures"]);
}

#[test]
fn colours_are_augmented_and_drawn() {
    let place = Place::new();
    place.pictures("pictures", 8);
    let options = "--color-jitter 0.4 --pca-jitter 0.1 --erase 0.5";
    place.convoy(&format!("{TRAIN} --max-steps 2 --name plain")).ok();
    let ran = place.convoy(&format!("{TRAIN} --max-steps 4 --name run {options}")).ok();
    assert!(ran.stdout.contains("colours: variances 0."), "{}", ran.stdout);
    place.convoy(&format!("{TRAIN} --max-steps 2 --name parted {options}")).ok();
    place.convoy("train --resume parted --max-steps 4").ok();
    assert!(place.read("run/last.safetensors") == place.read("parted/last.safetensors"), "a resumed run differs");
    let sheet = |name: &str| image::open(place.path(&format!("{name}/samples.png"))).unwrap().to_rgb8();
    // A batch of four 32 x 32 pictures at three times their size, in a row.
    assert_eq!(sheet("run").dimensions(), (4 * 100 + 4, 96 + 16 + 4));
    assert_ne!(sheet("run"), sheet("plain"));
    place.convoy(&format!("{TRAIN} --color-jitter 1.5")).refused(2, &["--color-jitter must be", "1.5"]);
}

#[test]
fn pictures_are_mixed() {
    let place = Place::new();
    place.pictures("pictures", 8);
    let options = "--mixup 0.4 --cutmix 1 --balance loss --batch-size 3";
    place.convoy(&format!("{TRAIN} --max-steps 2 --name plain --balance loss --batch-size 3")).ok();
    place.convoy(&format!("{TRAIN} --max-steps 6 --name run {options}")).ok();
    place.convoy(&format!("{TRAIN} --max-steps 2 --name parted --workers 1 {options}")).ok();
    place.convoy("train --resume parted --max-steps 6").ok();
    assert!(place.read("run/last.safetensors") == place.read("parted/last.safetensors"), "a resumed run differs");
    assert!(place.read("run/samples.png") != place.read("plain/samples.png"));
    place.convoy(&format!("{TRAIN} --mixup -1")).refused(2, &["--mixup"]);
    place.convoy(&format!("{TRAIN} --cutmix 1000")).refused(2, &["--cutmix must be 0, or 0.001 to 100", "1000"]);
}

#[test]
fn a_folder_is_timed() {
    let place = dirty();
    let line = "bench --data pictures --model four-layer --batch 4 --steps 2 --json --workers 1,3";
    let told = place.convoy(line).json();
    assert_eq!((&told["pictures"], &told["height"], told.get("training")), (&41.into(), &37.into(), None));
    let workers = told["workers"].as_array().unwrap();
    assert_eq!((&workers[0]["workers"], &workers[1]["workers"]), (&1.into(), &3.into()));
    let rate = |of: &Value, key: &str| assert!(of[key].as_f64().is_some_and(|rate| rate > 0.0), "{key}: {told}");
    workers.iter().for_each(|of| ["decoded_per_second", "cached_per_second"].iter().for_each(|key| rate(of, key)));
    let trained = place.convoy(&format!("{line} --end-to-end")).json();
    let rates = ["made_up_per_second", "decoded_per_second", "cached_per_second"];
    rates.iter().for_each(|key| rate(&trained["training"], key));
    assert_eq!((&trained["training"]["model"], &trained["training"]["steps"]), (&"four-layer".into(), &2.into()));
    place.convoy("bench --end-to-end").refused(2, &["--data"]);
    place.convoy("bench --data pictures --workers 0").refused(2, &["--workers 0", "1 or more"]);
}

/// The mean of all training pictures at each place is kept with the weights, and taken off wherever they are used.
#[test]
fn a_mean_image_is_taken_off() {
    let place = Place::new();
    place.pictures("pictures", 8);
    let options = "--mean-image true --augment crop --batch-size 5";
    place.convoy(&format!("{TRAIN} {options} --max-steps 8 --name run")).ok();
    place.convoy(&format!("{TRAIN} {options} --max-steps 3 --name parted --pca-jitter 0")).ok();
    place.convoy("train --resume parted --max-steps 8").ok();
    assert!(place.read("run/last.safetensors") == place.read("parted/last.safetensors"), "a resumed run differs");
    place.convoy(&format!("{TRAIN} --augment crop --batch-size 5 --max-steps 8 --name plain")).ok();
    let loss = |line: &str| {
        let told = place.convoy(&format!("eval {line} pictures --json")).json();
        told["loss"].as_f64().unwrap()
    };
    assert_ne!(loss("run/best.safetensors"), loss("plain/best.safetensors"));
    let once = loss("run/best.safetensors");
    assert!((loss("run/best.safetensors --adapter vulkan") - once).abs() < 1e-4);
    let ten = loss("run/best.safetensors --tta ten-crop --batch-size 7");
    assert!(ten != once && (ten - once).abs() < 0.3, "{ten}, once {once}");
    // The mean of the training pictures is what is kept.
    let bytes = std::fs::read(place.path("run/best.safetensors")).unwrap();
    let weights = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let kept = weights.tensor("mean_image").unwrap();
    assert_eq!(kept.shape(), [3, 37, 37]);
    let values: Vec<f32> = kept.data().as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value)).collect();
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    assert!((0.05..0.95).contains(&mean) && values.iter().any(|value| (value - mean).abs() > 0.01), "{mean}");
    // A run without begins from it and says what it leaves out.
    let plain = place.convoy(&format!("{TRAIN} --max-steps 1 --name after --pretrained run/best.safetensors")).ok();
    assert!(plain.stdout.contains("not in the model: mean_image"), "{}", plain.stdout);
}

#[test]
fn ten_crops_are_evaluated() {
    let place = Place::new();
    place.pictures("pictures", 8);
    for (name, augment) in [("resized", "resized"), ("off", "off")] {
        place.convoy(&format!("{TRAIN} --max-steps 8 --name {name} --augment {augment}")).ok();
        let once = place.convoy(&format!("eval {name}/best.safetensors pictures --json")).json();
        let eval = |batch: usize| {
            let line = format!("eval {name}/best.safetensors pictures --json --tta ten-crop --batch-size {batch}");
            place.convoy(&line).json()
        };
        let ten = eval(16);
        assert_eq!((&once["n"], &ten["n"]), (&16.into(), &16.into()));
        let loss = |told: &Value| told["loss"].as_f64().unwrap();
        assert!(loss(&ten) != loss(&once) && (loss(&ten) - loss(&once)).abs() < 0.3, "{once} {ten}");
        assert!((loss(&eval(5)) - loss(&ten)).abs() < 1e-5, "the batch has no influence");
    }
}
