//! The binary end to end, on pictures that the tests draw: what it prints, what it leaves in the run's folder, what it refuses.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use crate::common::binary::{self, Place, Ran};
use serde_json::Value;

/// An interface that no device of this system has.
const ABSENT: &str = if cfg!(target_vendor = "apple") { "dx12" } else { "metal" };

/// A training that takes a moment: 16 pictures of 32 x 32, the small model, batches of 4. 14 of them train: 4 steps an epoch.
const TRAIN: &str = "train pictures --model four-layer --image-size 32 --batch-size 4 --split 0.9 --lr 0.001 \
    --seed 7 --workers 2";

/// A folder with `pictures`, and the run `run` of 8 steps on them.
fn trained() -> Place {
    let place = Place::new();
    place.pictures("pictures", 8);
    place.convoy(&format!("{TRAIN} --max-steps 8 --out . --name run")).ok();
    place
}

#[test]
fn train_prints_the_tutorials_lines_and_fills_the_runs_folder() {
    let place = Place::new();
    place.pictures("pictures", 8);
    let ran = place.convoy(&format!("{TRAIN} --epochs 2 --out . --name run")).ok();
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines[0].contains("cpu"), "the first line says which device and why: {}", lines[0]);
    assert!(!ran.stdout.contains('\x1b'), "no colours or bars off a terminal");
    for epoch in 1..=2 {
        for step in 1..=4 {
            let start = format!("epoch:{epoch},iter{step}/4,loss:");
            let line =
                lines.iter().find(|l| l.starts_with(&start)).unwrap_or_else(|| panic!("{start}: {}", ran.stdout));
            assert!(line[start.len()..].parse::<f32>().is_ok_and(f32::is_finite), "{line}");
        }
        let start = format!("epoch:{epoch}/2,avg_loss:");
        assert!(lines.iter().any(|l| l.starts_with(&start)), "{start}: {}", ran.stdout);
    }
    let accuracies: Vec<&&str> = lines.iter().filter(|l| l.starts_with("ACC:") && l.ends_with('%')).collect();
    assert_eq!(accuracies.len(), 2, "one evaluation an epoch: {}", ran.stdout);
    for file in ["config.toml", "metrics.csv", "best.safetensors", "last.safetensors", "log.txt"] {
        assert!(place.path("run").join(file).is_file(), "{file}");
    }
    let metrics = place.text("run/metrics.csv");
    assert_eq!(metrics.lines().next(), Some("epoch,step,split,loss,top1,top5,lr,images_per_second,seconds"));
    assert!(metrics.lines().skip(1).all(|l| l.split(',').count() == 9), "{metrics}");
    assert_eq!(metrics.lines().filter(|l| l.split(',').nth(2) == Some("val")).count(), 2, "{metrics}");
}

/// The paper's recipe divides the rate by 10 where the validation error stops falling; `metrics.csv` has the rate that an epoch had.
#[test]
fn the_papers_rate_falls_on_a_plateau() {
    let place = Place::new();
    place.pictures("pictures", 8);
    let options = "--preset paper --std 0.25,0.25,0.25 --lr-patience 1 --epochs 4 --out . --name run";
    place.convoy(&format!("{TRAIN} {options}")).ok();
    let metrics = place.text("run/metrics.csv");
    let rows: Vec<Vec<&str>> = metrics.lines().map(|line| line.split(',').collect()).collect();
    let number = |row: &[&str], column: usize| row[column].parse::<f64>().unwrap();
    let (mut best, mut expected) = (f64::NEG_INFINITY, 0.001);
    for row in rows.iter().filter(|row| row[2] == "val") {
        assert!((number(row, 6) / expected - 1.0).abs() < 1e-6, "{expected} in {row:?} of\n{metrics}");
        let top1 = number(row, 4);
        if top1 > best {
            best = top1;
        } else {
            expected = f64::max(expected / 10.0, 1e-5);
        }
    }
    // Two validation pictures cannot be right more often three times.
    assert!(expected < 0.001, "no plateau: {metrics}");
}

/// The presets as they stand, on a network small enough for a test, and the paper's parts that are options.
#[test]
fn the_papers_and_the_tutorials_recipes_train() {
    let place = Place::new();
    place.pictures("pictures", 8);
    let layers = "{ kind = \"conv2d\", out = 4, kernel = 5, bias = 1.0 }, \"relu\", { kind = \"lrn\" }, \
                  { kind = \"max_pool2d\", kernel = 3, stride = 2 }, \"flatten\", { kind = \"dropout\", rate = 0.5 }, \
                  { kind = \"linear\", out = \"classes\" }";
    place.write("net.toml", format!("input = [3, 32, 32]\ninit = {{ normal = 0.01 }}\nlayers = [{layers}]"));
    // A step of a rate that changes nothing: what is stored is what the network begins with.
    let first = |name: &str, options: &str| {
        let run = format!("train pictures --model net.toml --lr 1.2e-38 --epochs 1 --out . --name {name} {options}");
        let ran = place.convoy(&run).ok();
        let bytes = place.read(&format!("{name}/last.safetensors"));
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let values = |tensor: &str| -> Vec<f32> {
            let data = tensors.tensor(tensor).unwrap().data().as_chunks().0.to_vec();
            data.into_iter().map(f32::from_le_bytes).collect()
        };
        (values("conv1.bias"), values("conv1.weight"), ran.stdout)
    };
    let (bias, weight, _) = first("paper", "--preset paper");
    let square = weight.iter().map(|v| v * v).sum::<f32>() / weight.len() as f32;
    // Five standard errors of 300 draws.
    assert!((square.sqrt() / 0.01 - 1.0).abs() < 0.21, "deviation {}", square.sqrt());
    assert_eq!(bias, [1.0; 4]);
    assert_eq!(first("caffe", "--preset paper --bias-init 0.1").0, [0.1; 4]);
    // What a model file says holds in the default preset too, but for an option that says otherwise.
    assert_eq!(first("file", "").0, [1.0; 4]);
    assert_eq!(first("he", "--init he").0, [0.0; 4]);
    let config = place.text("paper/config.toml");
    for line in
        ["dropout_form = \"paper\"", "mean_image = true", "paper_sgd = true", "bias_lr_scale = 2.0", "pca_jitter = 0.1"]
    {
        assert!(config.lines().any(|l| l == line), "{line}: {config}");
    }

    // The tutorial's batches of two, two classes: its lines, and at first a loss about ln 2.
    let ran = place.convoy("train pictures --preset tutorial --model net.toml --epochs 1 --out . --name tutorial").ok();
    let told = ran.stdout.lines().find_map(|line| line.strip_prefix("epoch:1,iter1/7,loss:")).expect("7 steps of two");
    assert!((0.3..1.2).contains(&told.parse::<f32>().unwrap()), "{told}");
    assert!(ran.stdout.contains("epoch:1/1,avg_loss:") && ran.stdout.contains("ACC:"), "{}", ran.stdout);
    place.convoy("eval tutorial/best.safetensors pictures").ok();
    place.convoy("eval paper/best.safetensors pictures").ok();
}

/// What an option cannot do is told, and kept in the log.
#[test]
fn options_without_effect_are_told() {
    let place = Place::new();
    place.pictures("pictures", 8);
    let ran = place.convoy(&format!("{TRAIN} --momentum 0.5 --dropout 0.5 --max-steps 1 --out . --name run")).ok();
    for told in ["--momentum has no effect here: it is for --optimizer sgd", "--dropout has no effect here"] {
        assert!(ran.stderr.contains(&format!("warning: {told}")), "{told}: {}", ran.stderr);
        assert!(place.text("run/log.txt").contains(told));
    }
}

#[test]
fn weights_go_by_the_fields_names() {
    let place = trained();
    let bytes = place.read("run/best.safetensors");
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let tensors = header.tensors();
    let conv1 = &tensors["conv1.weight"];
    assert_eq!((conv1.shape.len(), conv1.shape[1]), (4, 3), "conv1.weight is [O, I, H, W]");
    assert!(tensors.contains_key("conv1.bias"), "{:?}", tensors.keys());
    let metadata = header.metadata().clone().expect("metadata");
    for key in ["model", "classes", "epoch", "top1"] {
        assert!(metadata.contains_key(key), "{key}: {metadata:?}");
    }
}

#[test]
fn resume_goes_on_to_the_bit() {
    let place = Place::new();
    place.pictures("pictures", 8);
    place.convoy(&format!("{TRAIN} --max-steps 10 --out . --name straight")).ok();
    // 6 steps end in the middle of the second epoch.
    place.convoy(&format!("{TRAIN} --max-steps 6 --out . --name parted")).ok();
    assert_ne!(place.read("straight/last.safetensors"), place.read("parted/last.safetensors"));
    place.convoy("train --resume parted --max-steps 10").ok();
    assert!(
        place.read("straight/last.safetensors") == place.read("parted/last.safetensors"),
        "last.safetensors differ"
    );
    assert!(
        place.read("straight/best.safetensors") == place.read("parted/best.safetensors"),
        "best.safetensors differ"
    );
}

#[test]
fn the_number_of_workers_changes_nothing() {
    let place = Place::new();
    place.pictures("pictures", 8);
    place.convoy(&format!("{TRAIN} --max-steps 6 --out . --name one").replace("--workers 2", "--workers 1")).ok();
    place.convoy(&format!("{TRAIN} --max-steps 6 --out . --name four").replace("--workers 2", "--workers 4")).ok();
    assert!(place.read("one/last.safetensors") == place.read("four/last.safetensors"), "last.safetensors differ");
}

#[test]
fn the_seed_changes_the_run_and_the_config_repeats_it() {
    let place = trained();
    place.convoy(&format!("{TRAIN} --max-steps 8 --out . --name other").replace("--seed 7", "--seed 8")).ok();
    assert_ne!(place.read("run/last.safetensors"), place.read("other/last.safetensors"));
    place.convoy("train --config run/config.toml --out . --name again").ok();
    assert!(place.read("run/last.safetensors") == place.read("again/last.safetensors"), "last.safetensors differ");
}

/// A run keeps its own copy of a model file, which goes with its folder.
#[test]
fn the_config_repeats_the_run_after_the_model_was_edited() {
    let place = Place::new();
    place.pictures("pictures", 8);
    let model = include_str!("../../src/models/zoo/four-layer.toml");
    place.write("mine.toml", model);
    place.convoy(&format!("{TRAIN} --max-steps 2 --out . --name run").replace("four-layer", "mine.toml")).ok();
    place.write("mine.toml", model.replace("\"relu\"", "\"tanh\""));
    std::fs::create_dir(place.path("old")).unwrap();
    std::fs::rename(place.path("run"), place.path("old/run")).unwrap();
    place.convoy("train --config old/run/config.toml --out . --name again").ok();
    assert!(place.read("old/run/last.safetensors") == place.read("again/last.safetensors"), "last.safetensors differ");
    assert_eq!(place.text("old/run/config.toml"), place.text("again/config.toml"));
    place.convoy("train --resume again --max-steps 3").ok();
}

/// Sends a training a signal once its second epoch has begun; returns the lines that follow.
#[cfg(unix)]
fn signal_in_second_epoch(child: &mut Child, signal: &str) -> impl Iterator<Item = String> + use<> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|l| l.starts_with("epoch:2,iter1/")).expect("the second epoch begins");
    std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    lines
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_saves_and_goes_on_to_the_bit() {
    let place = Place::new();
    place.pictures("pictures", 8);
    place.convoy(&format!("{TRAIN} --epochs 240 --out . --name straight")).ok();
    let mut command = place.command(&format!("{TRAIN} --epochs 240 --out . --name stopped"));
    // A shell has its background jobs ignore Ctrl-C, these tests perhaps among them, and convoy respects that.
    // SAFETY: signal is one of the functions that may be called between fork and exec.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, || {
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            Ok(())
        });
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = signal_in_second_epoch(&mut child, "-INT");
    let rest = lines.count();
    assert_eq!(child.wait().unwrap().code(), Some(130), "after {rest} more lines");
    place.convoy("train --resume stopped").ok();
    assert!(
        place.read("straight/last.safetensors") == place.read("stopped/last.safetensors"),
        "last.safetensors differ"
    );
}

#[cfg(unix)]
#[test]
fn two_processes_do_not_write_one_run() {
    let place = trained();
    let mut resume = place.command("train --resume run --max-steps 100000 --epochs 100000");
    let mut child = resume.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|l| l.starts_with("epoch:3,")).expect("the run goes on");
    place.convoy("train --resume run --max-steps 9").refused(2, &["run", "another process"]);
    child.kill().unwrap();
    child.wait().unwrap();
    place.convoy("train --resume run --max-steps 9").ok();
}

/// What nohup does for a run on a remote machine.
#[cfg(unix)]
#[test]
fn a_hang_up_that_is_ignored_stays_ignored() {
    let place = Place::new();
    place.pictures("pictures", 8);
    let train = place.command(&format!("{TRAIN} --epochs 40 --out . --name run"));
    let mut child = std::process::Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$0\" \"$@\""])
        .arg(train.get_program())
        .args(train.get_args())
        .current_dir(place.path("."))
        .env("CONVOY_ADAPTER", "cpu")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = signal_in_second_epoch(&mut child, "-HUP");
    assert!(lines.any(|l| l.starts_with("epoch:40/40,")), "the run went to its end");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_refused_resume_changes_nothing() {
    let place = trained();
    let config = place.text("run/config.toml");
    std::fs::rename(place.path("pictures/cat.3.png"), place.path("cat.png")).unwrap();
    place.convoy("train --resume run --max-steps 9").refused(2, &["training pictures", "13", "14"]);
    assert_eq!(place.text("run/config.toml"), config);
    // As many pictures, one under another name: the order and the split would be others.
    std::fs::rename(place.path("cat.png"), place.path("pictures/cat.33.png")).unwrap();
    place.convoy("train --resume run --max-steps 9").refused(2, &["other names"]);
    std::fs::rename(place.path("pictures/cat.33.png"), place.path("pictures/cat.3.png")).unwrap();
    for (setting, other) in
        [("seed = 7", "seed = 8"), ("batch_size = 4", "batch_size = 3"), ("augment = \"resized\"", "augment = \"off\"")]
    {
        place.write("run/config.toml", config.replace(setting, other));
        place.convoy("train --resume run --max-steps 9").refused(2, &["config.toml", &other[..4]]);
    }
    place.write("run/config.toml", format!("{config}\nlr = \n"));
    let line = format!("config.toml: line {}: ", config.lines().count() + 2);
    place.convoy("train --resume run --max-steps 9").refused(2, &[&line]);
    place.write("run/config.toml", config);
    // Of an option given twice the last counts.
    place.convoy("train --resume run --max-steps 8 --max-steps 9").ok();
}

#[test]
fn validation_pictures_of_which_none_can_be_read_are_found_before_the_run() {
    let place = Place::new();
    place.pictures("pictures", 8);
    std::fs::create_dir(place.path("val")).unwrap();
    place.write("val/cat.0.png", "");
    let train = format!("{TRAIN} --val val --max-steps 4 --out . --name run");
    place.convoy(&train).refused(2, &["none of the 1 validation pictures", "cat.0.png"]);
    assert!(!place.path("run").exists(), "nothing was trained");
    place.pictures("val", 1);
    std::fs::remove_file(place.path("val/dog.0.png")).unwrap();
    let ran = place.convoy(&train).ok();
    assert!(ran.stderr.contains("no pictures of 1 of the 2 classes (dog)"), "{}", ran.stderr);
}

#[test]
fn a_run_goes_on_after_its_validation_pictures_were_moved() {
    let place = Place::new();
    place.pictures("pictures", 8);
    place.pictures("val", 1);
    place.convoy(&format!("{TRAIN} --val val --max-steps 1 --out . --name run")).ok();
    std::fs::rename(place.path("val"), place.path("moved")).unwrap();
    place.convoy("train --resume run --max-steps 2 --val moved").ok();
    place.pictures("moved", 2);
    place.convoy("train --resume run --max-steps 3").refused(2, &["other names"]);
}

#[test]
fn eval_counts_what_it_was_shown() {
    let place = trained();
    place.pictures("others", 12);
    place.write("others/cat.bad.png", "no picture"); // one of thirteen cats: within the tenth that may be lost
    let found = place.convoy("eval run/best.safetensors others --json").json();
    assert_eq!(found["n"], 24, "{found}");
    assert_eq!(found["classes"], serde_json::json!(["cat", "dog"]));
    let confusion: Vec<Vec<u64>> = serde_json::from_value(found["confusion"].clone()).unwrap();
    assert_eq!(confusion.iter().map(|row| row.iter().sum::<u64>()).collect::<Vec<_>>(), [12, 12], "rows are the truth");
    let top1 = (confusion[0][0] + confusion[1][1]) as f64 / 24.0;
    assert!((found["top1"].as_f64().unwrap() - top1).abs() < 1e-6, "{found}");
    assert!(found["loss"].as_f64().unwrap() > 0.0 && found["top5"] == 1.0, "{found}");
    let per_class = found["per_class"].as_array().unwrap();
    assert_eq!(per_class.len(), 2);
    for (class, row) in per_class.iter().zip(&confusion) {
        let recall = row[usize::from(class["class"] == "dog")] as f64 / 12.0;
        assert!((class["recall"].as_f64().unwrap() - recall).abs() < 1e-6 && class["n"] == 12, "{class}");
        assert!(class["precision"].is_number() && class["f1"].is_number(), "{class}");
    }
    assert_eq!(found["skipped"], 1, "{found}");
    place.convoy("eval run/best.safetensors others").ok();
}

#[test]
fn predict_takes_pictures_folders_and_globs() {
    let place = trained();
    place.write("broken.png", "no picture");
    let ran = place.convoy("predict run/best.safetensors pictures/cat.0.png broken.png --json");
    assert_eq!(ran.code, Some(2), "a picture could not be read: {}", ran.stderr);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    let [good, bad] = &found.as_array().unwrap()[..] else { panic!("{found}") };
    assert!(good["path"].as_str().unwrap().ends_with("cat.0.png") && good["error"].is_null(), "{good}");
    let top = good["top"].as_array().unwrap();
    let sum: f64 = top.iter().map(|t| t["probability"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-5 && top.len() == 2, "{good}");
    assert_eq!((&top[0]["label"], &top[0]["probability"]), (&good["label"], &good["probability"]));
    assert!(bad["label"].is_null() && bad["error"].is_string(), "{bad}");
    assert_eq!(ran.stderr.lines().count(), 1, "told once: {}", ran.stderr);
    let count = |arguments: &str| match place.convoy(arguments).json() {
        Value::Array(found) => found.len(),
        other => panic!("{other}"),
    };
    assert_eq!(count("predict run/best.safetensors pictures --json"), 16);
    assert_eq!(count("predict run/best.safetensors pictures/dog.*.png --json"), 8);
    let plain = place.convoy("predict run/best.safetensors pictures/cat.0.png").ok();
    assert!(plain.stdout.contains("cat.0.png") && plain.stdout.contains('%'), "{}", plain.stdout);
}

/// The picture's class does not depend on what else is in the batch.
#[test]
fn predict_agrees_with_eval() {
    let place = trained();
    let eval = place.convoy("eval run/best.safetensors pictures --json").json();
    let predicted = place.convoy("predict run/best.safetensors pictures --json").json();
    let right = predicted
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p["path"].as_str().unwrap().contains(p["label"].as_str().unwrap()))
        .count();
    assert!((eval["top1"].as_f64().unwrap() * 16.0 - right as f64).abs() < 1e-4, "{eval} {predicted}");
}

#[test]
fn summary_counts_parameters_and_work() {
    let place = Place::new();
    let found = place.convoy("summary alexnet --classes 2 --json").json();
    assert_eq!(found["parameters"], 58_289_538, "one tower with 2 classes");
    let macs = found["macs"].as_f64().unwrap();
    assert!((1.1e9..1.2e9).contains(&macs), "about 1.14 GMAC a picture: {macs}");
    let layers = found["layers"].as_array().unwrap();
    let conv1 = layers.iter().find(|l| l["name"] == "conv1").unwrap();
    assert_eq!(conv1["parameters"], 96 * 3 * 11 * 11 + 96);
    assert_eq!(conv1["output"], serde_json::json!([96, 55, 55]));
    assert!(found["training_memory_bytes"].as_u64().unwrap() > 2 * 4 * 58_289_538, "weights and momentum");
    for model in ["alexnet", "alexnet-tutorial", "resnet18", "four-layer"] {
        let plain = place.convoy(&format!("summary {model}")).ok();
        assert!(plain.stdout.contains("conv1"), "{}", plain.stdout);
    }
}

/// On the CPU backend and on the device that the shaders are tested on.
#[test]
fn bench_times_steps_and_kernels() {
    let place = Place::new();
    let shaders = std::env::var("CONVOY_ADAPTER").unwrap_or("vulkan".into());
    for adapter in ["cpu", &shaders] {
        for (mode, backward) in [("train", true), ("infer", false)] {
            let line = format!("bench --model four-layer --batch 3 --steps 2 --profile --json --mode {mode}");
            let found = place.convoy(&format!("{line} --adapter {adapter}")).json();
            assert_eq!((found["mode"].as_str(), found["batch"].as_u64()), (Some(mode), Some(3)), "{found}");
            for field in ["images_per_second", "ms_per_step", "gflops", "peak_memory_bytes", "first_step_ms"] {
                assert!(found[field].as_f64().is_some_and(|x| x > 0.0), "{field}: {found}");
            }
            let kernels = found["kernels"].as_array().unwrap();
            let has = |name: &str| kernels.iter().any(|kernel| kernel["name"] == name);
            assert!(has("conv1 conv2d_bias"), "{found}");
            assert_eq!(has("conv1 conv2d_backward_weight"), backward, "{found}");
            for field in ["calls", "ms", "gflops", "gb_per_s"] {
                assert!(kernels.iter().all(|kernel| kernel[field].as_f64().is_some()), "{field}: {found}");
            }
        }
    }
}

#[test]
fn adapters_lists_the_cpu_backend() {
    let place = Place::new();
    let found = place.convoy("adapters --json").json();
    let cpu =
        found.as_array().unwrap().iter().find(|d| d["backend"] == "cpu").expect("the CPU backend is always there");
    for field in ["index", "name", "type", "driver", "software", "selectors", "max_binding_bytes", "max_buffer_bytes"] {
        assert!(!cpu[field].is_null(), "{field}: {cpu}");
    }
    for field in ["memory_bytes", "f16", "subgroups", "timestamps"] {
        assert!(cpu.get(field).is_some(), "{field}: {cpu}");
    }
    assert!(place.convoy("adapters").ok().stdout.contains("cpu"));
}

#[test]
fn sample_draws_the_same_pictures_and_they_train() {
    let place = Place::new();
    place.convoy("sample one --count 16").ok();
    place.convoy("sample two --count 16").ok();
    let mut names: Vec<_> =
        walk(&place.path("one")).into_iter().map(|p| p.strip_prefix(place.path("one")).unwrap().to_owned()).collect();
    names.sort();
    assert!(names.len() >= 16, "{names:?}");
    for name in &names {
        assert_eq!(
            binary::read(&place.path("one").join(name)),
            binary::read(&place.path("two").join(name)),
            "{}",
            name.display()
        );
    }
    place.convoy("train one --model four-layer --image-size 32 --batch-size 4 --max-steps 2 --out . --name run").ok();
}

/// Every file under `folder`.
fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|p| if p.is_dir() { walk(&p) } else { vec![p] }).collect()
}

/// One unreadable picture of many is left out and named; the run's other pictures and its end do not change.
#[test]
fn an_unreadable_picture_is_skipped_and_named() {
    let place = Place::new();
    place.pictures("pictures", 24);
    place.write("pictures/cat.99.jpg", "this is no picture");
    place.convoy(&format!("{TRAIN} --epochs 1 --out . --name run")).ok();
    assert!(place.text("run/skipped.csv").contains("cat.99.jpg"));
}

/// A batch with nothing in it is a step that neither learns nor tells a loss; and the hint at the end names a picture that can be read.
#[test]
fn a_batch_without_a_readable_picture_has_no_loss() {
    let place = Place::new();
    place.pictures("pictures", 8);
    let batches_of_1 = TRAIN.replace("--batch-size 4", "--batch-size 1");
    for i in 0..8 {
        place.write(&format!("pictures/dog.{i}.png"), "this is no picture");
    }
    let ran = place.convoy(&format!("{batches_of_1} --epochs 1 --out . --name run"));
    assert_eq!(ran.code, Some(2), "the class is lost: {}", ran.stderr);
    let losses = ran.stdout.lines().filter(|line| line.starts_with("epoch:1,iter")).count();
    assert_eq!(losses, 7, "of 14 steps those with a cat: {}", ran.stdout);
    let hint = ran.stdout.lines().find(|line| line.starts_with("try it: ")).expect("a hint");
    assert!(hint.contains("cat."), "{hint}");
}

#[test]
fn pictures_outside_the_layout_are_told() {
    let place = Place::new();
    place.pictures("pictures", 8);
    place.pictures("pictures/old", 1);
    let ran = place.convoy(&format!("{TRAIN} --max-steps 1 --out . --name run")).ok();
    assert!(ran.stderr.contains("left out 2 pictures in the folder 'old'"), "{}", ran.stderr);
    assert!(place.text("run/log.txt").contains("left out 2 pictures"));
    let log = place.text("run/log.txt");
    for told in ["device: ", "data: 14 training and 2 validation pictures of 2 classes (cat, dog)", "model: four-layer"]
    {
        assert!(log.contains(told), "{told}: {log}");
    }
}

#[test]
fn no_more_pictures_in_a_batch_than_there_are() {
    let place = Place::new();
    place.pictures("pictures", 8);
    let large = TRAIN.replace("--batch-size 4", "--batch-size 65536");
    let ran = place.convoy(&format!("{large} --epochs 1 --out . --name run")).ok();
    assert!(ran.stdout.contains("epoch:1,iter1/1,loss:"), "{}", ran.stdout);
}

#[test]
fn a_device_that_is_not_there_leaves_no_folder() {
    let place = Place::new();
    place.pictures("pictures", 8);
    place.convoy(&format!("{TRAIN} --adapter {ABSENT} --out runs --name run")).refused(3, &[ABSENT, "no such device"]);
    assert!(!place.path("runs/run").exists());
    let mut unset = place.command(&format!("{TRAIN} --max-steps 1 --out . --name run"));
    let ran = unset.env("CONVOY_ADAPTER", "").output().unwrap();
    assert!(ran.status.success(), "an empty CONVOY_ADAPTER is an unset one: {ran:?}");
}

#[test]
fn a_run_that_loses_a_class_ends_with_code_2() {
    let place = Place::new();
    place.pictures("pictures", 8);
    for i in 0..8 {
        place.write(&format!("pictures/dog.{i}.png"), "this is no picture");
    }
    place.convoy(&format!("{TRAIN} --epochs 1 --out . --name run")).refused(2, &["dog"]);
}

#[test]
fn pictures_that_lie_are_skipped() {
    let place = Place::new();
    place.pictures("pictures", 24);
    let png = place.read("pictures/cat.0.png");
    let mut huge = png.clone();
    huge[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]); // claims 65536 x 65536
    place.write("pictures/cat.100.png", &huge);
    place.write("pictures/dog.100.png", &png[..png.len() / 2]);
    place.write("pictures/dog.101.jpg", &png); // a PNG under another name is read by its content
    place.convoy(&format!("{TRAIN} --epochs 1 --out . --name run")).ok();
    let skipped = place.text("run/skipped.csv");
    assert!(skipped.contains("cat.100.png") && skipped.contains("dog.100.png"), "{skipped}");
    assert!(!skipped.contains("dog.101.jpg"), "{skipped}");
}

#[test]
fn a_loss_that_is_not_finite_ends_with_code_4() {
    let place = Place::new();
    place.pictures("pictures", 8);
    let train = TRAIN.replace("--lr 0.001", "--lr 1e30");
    place.convoy(&format!("{train} --optimizer sgd --epochs 3 --out . --name run")).refused(4, &["lr"]);
}

#[test]
fn folders_that_cannot_be_trained_on_are_refused() {
    let place = Place::new();
    place.convoy("train nowhere").refused(2, &["nowhere"]);
    std::fs::create_dir(place.path("empty")).unwrap();
    place.convoy("train empty").refused(2, &["empty"]);
    place.pictures("one", 4);
    for i in 0..4 {
        std::fs::remove_file(place.path(&format!("one/dog.{i}.png"))).unwrap();
    }
    place.convoy("train one --model four-layer").refused(2, &["cat"]);
    place.write("file.txt", "text");
    place.convoy("train file.txt").refused(2, &["file.txt"]);
    place.pictures("pictures", 4);
    // Not by permissions: whoever runs the tests may be root.
    place.convoy(&format!("{TRAIN} --max-steps 1 --out file.txt/runs")).refused(2, &["file.txt"]);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let place = Place::new();
    place.pictures("pictures", 4);
    place.convoy(&format!("{TRAIN} --adapter nosuch")).refused(2, &["nosuch", "cpu"]);
    if !cfg!(feature = "cuda") {
        place.convoy(&format!("{TRAIN} --adapter cuda")).refused(3, &["not built in", "--features cuda"]);
    }
    place.convoy(&format!("{TRAIN} --adapter ,")).refused(2, &["--adapter ,", "before and after each comma"]);
    place.convoy("train pictures --model nosuch").refused(2, &["nosuch", "alexnet"]);
    place.write("model.toml", "name = 3");
    place.convoy("train pictures --model model.toml").refused(2, &["model.toml"]);
    for wrong in ["--split 1.5", "--batch-size 0", "--lr -1", "--image-size 1", "--dropout 1", "--epochs 0"] {
        let option = wrong.split(' ').next().unwrap();
        let ran = place.convoy(&format!("train pictures --model four-layer {wrong}"));
        assert_eq!(ran.code, Some(2), "{wrong}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{wrong}: {}", ran.stderr);
        assert!(
            ran.stderr.contains(option.trim_start_matches('-')) || ran.stderr.contains("conv"),
            "{wrong}: {}",
            ran.stderr
        );
    }
    assert_eq!(place.convoy("no-such-command").code, Some(2));
    let many = "18446744073709551615";
    place.convoy(&format!("train pictures --epochs {many}")).refused(2, &["--epochs", many, "0..=4294967295"]);
    place.convoy("train pictures --step-epochs 1e308").refused(2, &["--step-epochs", "got 1e308", "to 3.4e38"]);
    place.convoy("train pictures --epsilon 1e-46").refused(2, &["--epsilon", "got 1e-46", "1.2e-38"]);
}

/// A run on two devices is the run on one, to rounding, and either goes on with the other's.
#[test]
fn two_devices_train_what_one_does() {
    let place = Place::new();
    place.pictures("pictures", 8);
    let losses = |stdout: &str| -> Vec<f64> {
        stdout.lines().filter_map(|line| line.split_once(",loss:")?.1.parse().ok()).collect()
    };
    let train = |more: &str| place.convoy(&format!("{TRAIN} --init model --max-steps 6 --out . {more}")).ok().stdout;
    let one = losses(&train("--adapter cpu --name one"));
    assert_eq!(one.len(), 6);
    let near = |got: &[f64], expected: &[f64]| {
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() <= 1e-4 * expected, "{got}, expected {expected}");
        }
    };
    for (parallel, number) in [("model", 0), ("data", 1)] {
        let two = train(&format!("--adapter cpu,cpu --parallel {parallel} --name {parallel}"));
        assert!(two.contains("device 0: ") && two.contains("device 1: ") && two.contains("sent in a step"), "{two}");
        near(&losses(&two), &one);
        let config = place.text(&format!("{parallel}/config.toml"));
        assert!(
            config.contains("adapter = \"cpu,cpu\"") && config.contains(&format!("parallel = \"{parallel}\"")),
            "{config}"
        );
        assert!(place.text(&format!("{parallel}/log.txt")).contains("one device alone"));
        // It goes on on the devices that it began on, or on one, or the other way about.
        let begin = |name: &str, adapter: &str| {
            let name = format!("{name}{number}");
            place.convoy(&format!("{TRAIN} --init model --max-steps 4 --out . --name {name} {adapter}")).ok();
            name
        };
        let both = format!("--adapter cpu,cpu --parallel {parallel}");
        for (begun, more) in [
            (begin("same", &both), String::new()),
            (begin("fewer", &both), "--adapter cpu".into()),
            (begin("more", "--adapter cpu"), both.clone()),
        ] {
            let ran = place.convoy(&format!("train --resume {begun} --max-steps 6 {more}")).ok();
            near(&losses(&ran.stdout), &one[4..]);
        }
        let eval = format!("eval {parallel}/best.safetensors pictures --json");
        let (a, b) =
            (place.convoy(&format!("{eval} {both}")).json(), place.convoy(&format!("{eval} --adapter cpu")).json());
        near(&[a["loss"].as_f64().unwrap()], &[b["loss"].as_f64().unwrap()]);
    }
}

#[test]
fn devices_that_cannot_work_together_are_refused() {
    let place = Place::new();
    place.pictures("pictures", 4);
    for (options, code, parts) in [
        ("--adapter cpu --parallel data", 2, &["--parallel", "cpu,cpu"][..]),
        ("--adapter cpu,", 2, &["before and after each comma"]),
        ("--adapter cpu,voodoo", 2, &["voodoo", "no device has this name"]),
        (&*format!("--adapter cpu,{ABSENT}"), 3, &[ABSENT, "no such device"]),
        ("--adapter cpu,cpu,cpu,cpu,cpu --parallel data --batch-size 3", 2, &["5 devices", "the batch has fewer"]),
        ("--adapter cpu,cpu --parallel both", 2, &["--parallel", "model, data"]),
    ] {
        place.convoy(&format!("{TRAIN} --out runs --name run {options}")).refused(code, parts);
        assert!(!place.path("runs/run").exists(), "{options}");
    }
    place.convoy("bench --model four-layer --adapter cpu,cpu --profile").refused(2, &["--profile", "one"]);
    place.convoy("summary four-layer --devices 65").refused(2, &["--devices"]);
}

/// What is sent and the memory of each device, as numbers: planned by summary, and of devices that ran.
#[test]
fn what_devices_send_is_reported() {
    let place = Place::new();
    let planned = place.convoy("summary alexnet-2gpu --batch 4 --devices 2 --json").json();
    let layers: Vec<&str> =
        planned["exchange"]["edges"].as_array().unwrap().iter().map(|edge| edge["layer"].as_str().unwrap()).collect();
    assert!(["conv3", "fc6", "fc7", "fc8"].iter().all(|layer| layers.contains(layer)), "{layers:?}");
    assert!(!["conv2", "conv4", "conv5", "norm1", "norm2"].iter().any(|layer| layers.contains(layer)), "{layers:?}");
    assert!(place.convoy("summary alexnet-2gpu --devices 2").ok().stdout.contains("one device alone"));
    for parallel in ["model", "data"] {
        let line = format!("bench --model four-layer --batch 8 --steps 1 --adapter cpu,cpu --parallel {parallel}");
        let found = place.convoy(&format!("{line} --json")).json();
        let (exchange, ran) = (&found["exchange"], place.convoy(&line).ok().stdout);
        assert!(exchange["bytes_per_step"].as_u64() > Some(0) && ran.contains("sent in a step"), "{found} {ran}");
        assert_eq!(exchange["memory"].as_array().map(Vec::len), Some(2), "{found}");
        let one = place.convoy("bench --model four-layer --batch 8 --steps 1 --adapter cpu --json").json();
        assert!(one.get("exchange").is_none(), "{one}");
    }
}

#[test]
fn what_is_to_come_is_told_as_such() {
    let place = Place::new();
    place.pictures("pictures", 4);
    for (line, wanted) in [
        ("train pictures --batch-size auto", "--batch-size auto"),
        ("train pictures --accumulate 4", "--accumulate"),
        ("lr-find pictures --json", "convoy lr-find"),
        ("explain run/best.safetensors picture.jpg", "convoy explain"),
    ] {
        place.convoy(line).refused(2, &[wanted, "not built yet"]);
    }
    place.convoy(&format!("{TRAIN} --precision f32 --max-steps 1 --out . --name run")).ok();
    place.convoy("train pictures --batch-size many").refused(2, &["--batch-size", "many"]);
}

/// A run with an activation of its own beside one without: a row each, both errors drawn.
#[test]
fn compare_draws_runs_beside_each_other() {
    let place = trained();
    place.convoy(&format!("{TRAIN} --max-steps 8 --activation leaky-relu --out . --name leaky")).ok();
    assert_ne!(place.read("run/last.safetensors"), place.read("leaky/last.safetensors"));
    let ran = place.convoy("compare run leaky --training-error 100").ok();
    let rows: Vec<&str> = ran.stdout.lines().collect();
    assert!(
        rows[1].starts_with("run ") && rows[2].starts_with("leaky ") && rows[0].contains("to 100 % training error")
    );
    let picture = place.text("compare.svg");
    assert_eq!(picture.matches("<polyline ").count(), 4, "{picture}");
    let found = place.convoy("compare run leaky --training-error 100 --json --out other.svg").json();
    assert_eq!((found[0]["run"].as_str(), found[0]["epochs"].as_u64()), (Some("run"), Some(2)));
    assert_eq!(found[1]["epochs_to_training_error"], 1, "no error is larger");
    std::fs::create_dir(place.path("other")).unwrap();
    std::fs::rename(place.path("leaky"), place.path("other/run")).unwrap();
    let same = place.convoy("compare run other/run").ok();
    assert!(same.stdout.lines().any(|row| row.starts_with("other/run ")), "{}", same.stdout);
    place.convoy("compare pictures").refused(2, &["pictures", "no run"]);
    place.convoy(&format!("{TRAIN} --max-steps 1 --out . --name short")).ok();
    let without_short = || {
        let left = place.convoy("compare run short").ok();
        assert!(left.stderr.contains("short: left out: the run has no whole epoch"), "{}", left.stderr);
        assert_eq!((left.stdout.matches("\nrun ").count(), left.stdout.matches("short").count()), (1, 0));
        place.convoy("compare short").refused(2, &["none of the runs has a whole epoch"]);
    };
    without_short();
    // What says where a run stood is not what is drawn.
    place.write("run/last.safetensors", "broken");
    without_short();
    std::fs::remove_file(place.path("short/metrics.csv")).unwrap();
    without_short();
    place.convoy("compare run --training-error 101").refused(2, &["--training-error", "0 to 100"]);
    place.convoy(&format!("{TRAIN} --activation swish")).refused(2, &["--activation", "swish", "gelu"]);
    place.write("linear.toml", "input = [3, 32, 32]\nlayers = [\"flatten\", { kind = \"linear\", out = \"classes\" }]");
    let linear = format!("{TRAIN} --activation tanh").replace("four-layer", "linear.toml");
    place.convoy(&linear).refused(2, &["linear has no activation"]);
}

/// Of a system whose folder of caches a variable says.
#[test]
#[cfg(all(unix, not(target_vendor = "apple")))]
fn what_is_kept_between_runs_is_listed_and_cleared() {
    let place = Place::new();
    let convoy = |arguments: &str| -> Ran {
        let mut command = place.command(arguments);
        command.env("XDG_CACHE_HOME", place.path("caches")).output().unwrap().into()
    };
    assert!(convoy("cache").ok().stdout.starts_with("0 files, 0 B in "));
    std::fs::create_dir_all(place.path("caches/convoy/tuning")).unwrap();
    place.write("caches/convoy/tuning/card.json", "{}");
    let listed = convoy("cache").ok().stdout;
    assert!(listed.starts_with("tuning: card.json, 2 B\n1 file"), "{listed}");
    assert!(convoy("cache --clear").ok().stdout.starts_with("deleted 1 file"));
    assert!(place.path("caches").exists() && !place.path("caches/convoy").exists());
    place.write("caches/convoy", "no folder");
    convoy("cache").refused(2, &["caches/convoy"]);
}

#[test]
fn checkpoints_that_are_none_are_refused() {
    let place = trained();
    let good = place.read("run/last.safetensors");
    place.convoy("eval nowhere.safetensors pictures").refused(2, &["nowhere.safetensors"]);
    let ran = place.convoy("predict run/best.safetensors nowhere.png");
    assert!(ran.code == Some(2) && ran.stderr.contains("nowhere.png: "), "{}", ran.stderr);
    place.convoy("eval run/best.safetensors nowhere").refused(2, &["nowhere"]);
    let foreign = {
        let data = [0u8; 16];
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![4], &data).unwrap();
        safetensors::serialize([("weight", view)], None).unwrap()
    };
    let mut wrong_length = good.clone();
    wrong_length[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    for (name, content) in [
        ("empty", Vec::new()),
        ("text", b"not a checkpoint".to_vec()),
        ("cut", good[..good.len() - 1000].to_vec()),
        ("long", [&good[..], &[0; 7]].concat()),
        ("wrong_length", wrong_length),
        ("foreign", foreign),
    ] {
        let file = format!("{name}.safetensors");
        place.write(&file, &content);
        place.convoy(&format!("eval {file} pictures")).refused(2, &[&file]);
        place.convoy(&format!("predict {file} pictures/cat.0.png")).refused(2, &[&file]);
        std::fs::create_dir(place.path(name)).unwrap();
        for other in ["config.toml", "metrics.csv"] {
            place.write(&format!("{name}/{other}"), place.read(&format!("run/{other}")));
        }
        place.write(&format!("{name}/last.safetensors"), &content);
        place.convoy(&format!("train --resume {name} --max-steps 9")).refused(2, &["last.safetensors"]);
    }
    place.convoy("train --resume nowhere").refused(2, &["nowhere"]);
    place.write("foreign/last.safetensors", place.read("run/best.safetensors"));
    place.convoy("train --resume foreign").refused(2, &["foreign", "last.safetensors: the checkpoint does not say"]);
    let mut damaged = place.read("run/best.safetensors");
    let end = damaged.len();
    damaged[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    place.write("damaged.safetensors", damaged);
    place.convoy("predict damaged.safetensors pictures/cat.0.png").refused(2, &["damaged.safetensors", "NaN"]);
}

#[test]
fn help_and_version_are_there() {
    let place = Place::new();
    let help = place.convoy("train --help").ok().stdout;
    for option in ["--model", "--preset", "--epochs", "--max-steps", "--batch-size", "--lr", "--resume", "--adapter"] {
        assert!(help.contains(option), "{option}:\n{help}");
    }
    assert!(place.convoy("--version").ok().stdout.contains(env!("CARGO_PKG_VERSION")));
    if let Ok(full) = std::fs::File::options().write(true).open("/dev/full") {
        let ran = place.command("--help").stdout(full).output().unwrap();
        assert_eq!(ran.status.code(), Some(2), "{ran:?}");
    }
}

#[test]
fn selftest_reports_what_a_device_computes() {
    let place = Place::new();
    let report = place.convoy("selftest --adapter cpu --op lrn --op max_pool2d --random 5 --json").json();
    assert_eq!((&report["failed"], &report["device"]["backend"]), (&0.into(), &"cpu".into()));
    let ops: Vec<_> = report["ops"].as_array().unwrap().iter().map(|op| op["op"].as_str().unwrap()).collect();
    assert_eq!(ops, ["lrn", "max_pool2d"]);
    let cases = report["ops"].as_array().unwrap().iter().map(|op| op["cases"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(report["cases"], cases);
    let table = place.convoy("selftest --adapter cpu --op lrn --seed 9").ok().stdout;
    assert!(table.contains("cases right") && table.starts_with("device: "), "{table}");
    let list = place.convoy("selftest --list --json").json();
    assert!(
        list.as_array().unwrap().iter().any(|row| row["op"] == "conv2d" && row["backends"]["cpu"].as_u64() > Some(0))
    );
    place.convoy("selftest --op convolve").refused(2, &["convolve", "conv2d"]);
    place.convoy("selftest --adapter nowhere").refused(2, &["nowhere"]);
}
