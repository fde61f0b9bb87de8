//! The zoo on both backends, and what a user does with models: files of one's own, weights that others trained.

use crate::common;
use std::collections::BTreeMap;

use crate::common::binary::Place;
use convoy::backend::Device;
use convoy::models::{BuildOptions, EvalGraph, Model, OptimizerConfig, ParameterKind, eval_graph, train_graph};
use convoy::rng::{Philox, stream};
use convoy::tensor::{Data, Tensor};

/// Residual blocks in a few lines: batch normalisation, a sum, a concatenation.
const BLOCKS: &str = r#"
input = [3, 32, 32]

layers = [
    { kind = "conv2d", out = 8, kernel = 3, stride = 2, padding = 1, bias = false }, "batch_norm", "relu",
    { kind = "conv2d", out = 8, kernel = 3, padding = 1 }, "batch_norm",
    { kind = "add", from = "relu1" },
    { kind = "concat", from = "input_pool" },
    "global_avg_pool2d",
    "flatten",
    { kind = "linear", out = "classes" },
]
"#;

/// [`BLOCKS`] with its second path from the picture.
fn blocks() -> String {
    let path = "layers = [\n    { name = \"input_pool\", kind = \"max_pool2d\", kernel = 2 },";
    BLOCKS.replace("layers = [", path).replace(
        "kind = \"conv2d\", out = 8, kernel = 3, stride",
        "kind = \"conv2d\", from = \"input\", out = 8, kernel = 3, stride",
    )
}

/// Pictures that the seed fixes.
fn pictures(n: usize, side: usize) -> Tensor {
    let random = Philox { seed: 8, stream: stream::TEST, step: 0 };
    let pixels = (0..n * side * side * 3).map(|i| random.word(i as u32) as u8).collect();
    Tensor::new([n, side, side, 3], Data::U8(pixels)).unwrap()
}

/// Losses of two steps of SGD.
fn losses(device: &mut dyn Device, name: &str, side: usize) -> Vec<f64> {
    let (batch, classes) = (3, 4);
    let options = BuildOptions { image_size: Some(side), dropout: Some(0.0), ..BuildOptions::new(batch, classes) };
    let optimizer = OptimizerConfig::sgd(0.9, 5e-4);
    let train = train_graph(&Model::find(name).unwrap(), &options, &optimizer, 0.1).unwrap();
    for parameter in &train.parameters {
        device.set(&parameter.name, &parameter.initial(3).unwrap()).unwrap();
    }
    for (name, ty) in &train.states {
        device.set(name, &Tensor::zeros(ty).unwrap()).unwrap();
    }
    let mut program = device.compile(&train.graph, &[train.loss]).unwrap();
    program.write(train.pictures, &pictures(batch, side)).unwrap();
    program.write(train.labels, &Tensor::u32([batch], vec![0, 3, 1]).unwrap()).unwrap();
    let step = |step: u32| {
        program.write(train.counter, &Tensor::u32([4], vec![5, 0, step, 0]).unwrap()).unwrap();
        let schedule = optimizer.schedule(1e-3, u64::from(step) + 1).to_vec();
        program.write(train.schedule, &Tensor::f32([4], schedule).unwrap()).unwrap();
        let ticket = program.submit().unwrap();
        common::as_f64(&program.outputs(ticket, true).unwrap().unwrap()[0])[0]
    };
    (0..2).map(step).collect()
}

/// Every model of the zoo learns, and the same on both backends. As small as the pictures may be: the weights stay what they are.
#[test]
fn the_zoo_trains_on_both_backends() {
    for name in Model::zoo() {
        let side = match name {
            "lenet" | "cuda-convnet" | "four-layer" | "resnet18" | "vgg11" => 32,
            "alexnet-torchvision" => 224, // what its six windows divide
            _ => 67,
        };
        let (cpu, gpu) = (losses(&mut *common::cpu(), name, side), losses(&mut *common::gpu(), name, side));
        common::compare(name, &gpu, &cpu, (0.0, 1e-4)).unwrap();
        assert!(cpu[1] < cpu[0], "{name}: {cpu:?}");
    }
}

/// Logits of an evaluation.
fn logits(
    device: &mut dyn Device,
    eval: &EvalGraph,
    tensors: &BTreeMap<String, Tensor>,
    pictures: &Tensor,
) -> Vec<f64> {
    for parameter in &eval.parameters {
        device.set(&parameter.name, &tensors[&parameter.name]).unwrap();
    }
    let mut program = device.compile(&eval.graph, &[eval.logits]).unwrap();
    program.write(eval.pictures, pictures).unwrap();
    program.write(eval.counter, &Tensor::u32([4], vec![0; 4]).unwrap()).unwrap();
    let ticket = program.submit().unwrap();
    common::as_f64(&program.outputs(ticket, true).unwrap().unwrap()[0])
}

/// Batch normalisation folded into convolutions, with and without a bias of their own, gives the same logits.
#[test]
fn folding_changes_rounding_alone() {
    let own = Model::parse(&blocks(), "blocks.toml").unwrap();
    for (model, norms) in [(own, 2), (Model::find("resnet18").unwrap(), 20)] {
        let plain = BuildOptions { image_size: Some(32), ..BuildOptions::new(2, 5) };
        let folded = BuildOptions { fold: true, ..plain.clone() };
        let (plain, folded) = (eval_graph(&model, &plain).unwrap(), eval_graph(&model, &folded).unwrap());
        assert_eq!((plain.folds.len(), folded.folds.len()), (0, norms));
        assert!(folded.graph.nodes.iter().all(|node| node.op.name() != "batch_norm_inference"));
        // Everything at random, variances above 0.
        let value = |number: u32, kind: ParameterKind, n: usize| -> Vec<f32> {
            let mut values = vec![0.0; n];
            Philox { seed: 4, stream: stream::TEST, step: number }.normal(&mut values);
            let of = |v: f32| if kind == ParameterKind::Weight { 0.05 * v } else { 0.5 + v.abs() };
            values.into_iter().map(of).collect()
        };
        let tensor = |p: &convoy::models::Parameter| {
            let values = value(p.number, p.kind, p.shape.elements());
            (p.name.clone(), Tensor::f32(p.shape.clone(), values).unwrap())
        };
        let tensors: BTreeMap<String, Tensor> = plain.parameters.iter().map(tensor).collect();
        let mut fewer = tensors.clone();
        folded.folds.iter().for_each(|fold| fold.apply(&mut fewer).unwrap());
        assert_eq!(fewer.len(), folded.parameters.len());
        for open in [common::cpu as fn() -> Box<dyn Device>, common::gpu] {
            let expected = logits(&mut *open(), &plain, &tensors, &pictures(2, 32));
            let found = logits(&mut *open(), &folded, &fewer, &pictures(2, 32));
            common::compare(&model.name, &found, &expected, (1e-4, 1e-4)).unwrap();
        }
        let mut missing = tensors;
        missing.remove(&format!("{}.running_var", folded.folds[0].norm));
        let error = folded.folds[0].apply(&mut missing).unwrap_err().to_string();
        assert!(error.contains("running_var"), "{error}");
    }
}

const TRAIN: &str = "train pictures --batch-size 4 --seed 7 --workers 1 --out .";

fn place() -> Place {
    let place = Place::new();
    place.pictures("pictures", 8);
    place.write("blocks.toml", blocks());
    place
}

/// Running averages are in both checkpoints, under PyTorch's names, and a resumed run goes on with them; the last batch of an epoch
/// is not whole.
#[test]
fn batch_normalisation_resumes_to_the_bit() {
    let place = place();
    let train = format!("{TRAIN} --model blocks.toml");
    place.convoy(&format!("{train} --max-steps 10 --name straight")).ok();
    place.convoy(&format!("{train} --max-steps 6 --name parted")).ok();
    place.convoy("train --resume parted --max-steps 10").ok();
    for file in ["last", "best"] {
        let read = |run: &str| place.read(&format!("{run}/{file}.safetensors"));
        assert!(read("straight") == read("parted"), "{file}.safetensors differ");
        let bytes = read("straight");
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for name in ["bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var", "conv2.bias"] {
            assert!(tensors.tensor(name).is_ok(), "{name}: {:?}", tensors.names());
        }
        let mean: &[f32] = bytemuck::cast_slice(tensors.tensor("bn1.running_mean").unwrap().data());
        assert!(mean.iter().all(|v| *v != 0.0), "{mean:?}");
    }
    // Evaluated as in the run, with the normalisation folded.
    let found = place.convoy("eval straight/best.safetensors pictures --json").json();
    assert_eq!(found["n"], 16);
}

#[test]
fn a_model_of_the_zoo_is_a_file_to_start_from() {
    let place = place();
    for model in ["alexnet", "resnet18", "blocks.toml"] {
        let dumped = place.convoy(&format!("summary {model} --dump")).ok().stdout;
        place.write("mine.toml", dumped);
        let parameters = |model: &str| place.convoy(&format!("summary {model} --json")).json()["parameters"].clone();
        assert_eq!(parameters(model), parameters("mine.toml"));
    }
    place.convoy("summary nothing --dump").refused(2, &["there is no model", "resnet18"]);
}

#[test]
fn mistakes_in_a_model_file_are_told_by_line() {
    let place = place();
    for (from, to, expected) in [
        (
            "\"global_avg_pool2d\"",
            "\"global_pool\"",
            &["wrong.toml: line 10: ", "global_pool", "global_avg_pool2d"][..],
        ),
        ("from = \"relu1\"", "from = \"relu9\"", &["line 8: layer add2: from = \"relu9\"", "relu1"]),
        (
            "from = \"relu1\"",
            "from = \"input_pool\"",
            &["wrong.toml: line 8: add2 (add): b must be [1, 8, 16, 16], got [1, 3, 16, 16]"],
        ),
        (
            "input =",
            "init = { normal = 0.1, foo = 3 }\ninput =",
            &["line 2: init: invalid value: a key `foo`, expected \"he\", \"pytorch\" or"],
        ),
        ("input =", "init = \"xavier\"\ninput =", &["line 2: init: invalid value: string \"xavier\", expected \"he\""]),
        ("out = \"classes\"", "out = \"clases\"", &["line 12: out: expected a whole number, or \"classes\""]),
        (
            "padding = 1 }",
            "padding = 1, groups = 3 }",
            &["wrong.toml: line 7: conv2 (conv2d): 8 input and 8 output channels"],
        ),
        ("\"flatten\",", "\"flatten\"", &["wrong.toml: line "]),
        ("input =", "inputs =", &["wrong.toml: line 2: unknown field `inputs`"]),
    ] {
        let text = blocks();
        assert!(text.contains(from), "{from}\n{text}");
        place.write("wrong.toml", text.replace(from, to));
        place.convoy("summary wrong.toml --batch 1").refused(2, expected);
        place.convoy(&format!("{TRAIN} --model wrong.toml --max-steps 1")).refused(2, &["wrong.toml"]);
    }
}

/// What fits is taken, the last layer of other classes starts anew, and what cannot be meant is refused.
#[test]
fn pretrained_weights_are_a_start() {
    let place = place();
    let train = format!("{TRAIN} --model blocks.toml --max-steps 2");
    place.convoy(&format!("{train} --name first")).ok();
    let again = place.convoy(&format!("{train} --pretrained first/last.safetensors --name second")).ok();
    assert!(again.stdout.contains("pretrained: 13 of 13 tensors"), "{}", again.stdout);
    assert!(!again.stdout.contains("starts anew") && !again.stdout.contains("not in the model"), "{}", again.stdout);
    let loss = |out: &str, step: &str| out.lines().find(|l| l.starts_with(step)).unwrap().to_string();
    let fresh = place.convoy(&format!("{train} --name third")).ok();
    assert_ne!(loss(&again.stdout, "epoch:1,iter1/"), loss(&fresh.stdout, "epoch:1,iter1/"));
    // A run says what it began with, and its configuration repeats it.
    assert!(place.text("second/log.txt").contains("pretrained: 13 of 13"));
    place.convoy("train --config second/config.toml --out . --name repeated").ok();
    assert!(place.read("second/last.safetensors") == place.read("repeated/last.safetensors"));
    // Another class: its layer starts anew.
    std::fs::copy(place.path("pictures/cat.0.png"), place.path("pictures/emu.0.png")).unwrap();
    std::fs::copy(place.path("pictures/cat.1.png"), place.path("pictures/emu.1.png")).unwrap();
    let other = place.convoy(&format!("{train} --pretrained first/best.safetensors --name fourth")).ok();
    assert!(other.stdout.contains("pretrained: 11 of 13 tensors"), "{}", other.stdout);
    assert!(other.stdout.contains("starts anew: fc3.weight [3, 11] ([2, 11] in the file)"), "{}", other.stdout);

    let of = |model: &str, file: &str| place.convoy(&format!("{TRAIN} --model {model} --pretrained {file}"));
    of("vgg11", "first/best.safetensors")
        .refused(2, &["no tensor has the name and shape", "features.0.weight", "bn1.bias"]);
    of("blocks.toml", "nowhere.safetensors").refused(2, &["nowhere.safetensors", "cannot read"]);
    of("blocks.toml", "blocks.toml").refused(2, &["blocks.toml", "not a safetensors file"]);
}

/// A layer with `lr_scale = 0` keeps its weights and statistics, on several devices too, while those before and behind it learn.
#[test]
fn frozen_layers_stay_as_they_are() {
    let place = place();
    place.convoy(&format!("{TRAIN} --model blocks.toml --max-steps 2 --name first")).ok();
    let text = blocks().replacen("\"batch_norm\"", "{ kind = \"batch_norm\", lr_scale = 0 }", 1);
    assert_ne!(text, blocks());
    place.write("frozen.toml", text.replacen("kernel = 3, ", "kernel = 3, lr_scale = 0, ", 1));
    let tensor = |run: &str, name: &str| {
        let bytes = place.read(&format!("{run}/last.safetensors"));
        safetensors::SafeTensors::deserialize(&bytes).unwrap().tensor(name).unwrap().data().to_vec()
    };
    let train = format!("{TRAIN} --model frozen.toml --max-steps 3 --pretrained first/last.safetensors");
    let losses = |run: &str, devices: &str| {
        let ran = place.convoy(&format!("{train} {devices} --name {run}")).ok();
        for stays in ["conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"] {
            assert!(tensor("first", stays) == tensor(run, stays), "{run}: {stays}");
        }
        for learns in ["conv2.weight", "bn2.weight", "bn2.running_mean", "fc3.bias"] {
            assert!(tensor("first", learns) != tensor(run, learns), "{run}: {learns}");
        }
        let told = ran.stdout.lines().filter_map(|line| line.split_once(",loss:")?.1.parse::<f32>().ok());
        told.collect::<Vec<_>>()
    };
    let one = losses("one", "--adapter cpu");
    assert_eq!(one.len(), 3);
    for (run, devices) in
        [("gpu", "--adapter vulkan"), ("model", "--adapter cpu,cpu"), ("data", "--adapter cpu,cpu --parallel data")]
    {
        for (one, other) in one.iter().zip(losses(run, devices)) {
            assert!((one - other).abs() < 1e-4 * (1.0 + one.abs()), "{run}: {one} {other}");
        }
    }
    // Below a frozen batch normalisation a layer learns as well: its gradient goes through.
    place.write("middle.toml", text);
    place.convoy(&format!("{train} --model middle.toml --name middle").replace(" --model frozen.toml", "")).ok();
    assert!(tensor("first", "conv1.weight") != tensor("middle", "conv1.weight"));
    assert!(tensor("first", "bn1.running_var") == tensor("middle", "bn1.running_var"));
}

/// A batch of one value a channel has no variance.
#[test]
fn a_batch_without_variance_is_refused() {
    let place = Place::new();
    place.pictures("pictures", 4);
    let layers = "layers = [{ kind = \"global_avg_pool2d\" }, \"batch_norm\", \"flatten\", { kind = \"linear\", out = \"classes\" }]";
    place.write("m.toml", format!("input = [3, 32, 32]\n{layers}"));
    place
        .convoy("train pictures --model m.toml --batch-size 1 --max-steps 1")
        .refused(2, &["m.toml: line 2: bn0", "--batch-size"]);
    place.convoy("train pictures --model m.toml --batch-size 2 --max-steps 1 --out .").ok();
}

/// A run's weights, alone or as another program has them, predict as they did, and what is no network is refused.
#[test]
fn networks_are_exported() {
    let place = place();
    place.convoy(&format!("{TRAIN} --model blocks.toml --max-steps 2 --name run")).ok();
    let predict = |file: &str| place.convoy(&format!("predict {file} pictures/cat.0.png --json")).ok().json();
    let told = place.convoy("export run/last.safetensors weights.safetensors").ok();
    assert!(
        told.stdout.contains("weights.safetensors: blocks, ") && told.stdout.contains("2 classes"),
        "{}",
        told.stdout
    );
    let bytes = place.read("weights.safetensors");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), 13, "{:?}", tensors.names());
    assert_eq!(predict("weights.safetensors"), predict("run/last.safetensors"));
    place.convoy("export run/best.safetensors net.ONNX").ok();
    assert!(place.read("net.ONNX").len() > 4 * 13);

    // The same numbers under the same names, but nobody says what they are.
    let views = tensors.tensors();
    safetensors::serialize_to_file(views, None, &place.path("foreign.safetensors")).unwrap();
    place.write("names.txt", "cat\ndog\n");
    place
        .convoy("predict foreign.safetensors pictures/cat.0.png")
        .refused(2, &["weights of another program", "convoy export FILE OUT.safetensors --model NAME"]);
    let model = "export foreign.safetensors own.safetensors --model blocks.toml";
    place.convoy(&format!("{model} --classes names.txt")).ok();
    assert_eq!(predict("own.safetensors"), predict("run/last.safetensors"));
    place.convoy(model).ok();
    assert_eq!(predict("own.safetensors")[0]["top"].as_array().unwrap().len(), 2);

    place.write("three.txt", "cat\ndog\nemu");
    place.convoy(&format!("{model} --classes three.txt")).refused(2, &["fc3.weight", "(here 3)", "--classes"]);
    place.write("gap.txt", "cat\n\nemu");
    place.convoy(&format!("{model} --classes gap.txt")).refused(2, &["gap.txt line 2"]);
    place.convoy(&format!("{model} --mean 0,1")).refused(2, &["--mean", "three numbers"]);
    place.convoy(&format!("{model} --std 0,1,1")).refused(2, &["--std", "above 0"]);
    place.convoy(&format!("{model} --stored-size 8")).refused(2, &["--stored-size 8", "or more"]);
    place.write("marked.txt", "\u{feff}cat\r\ndog\r\n");
    place.convoy(&format!("{model} --classes marked.txt --mean -1,0,1")).ok();
    assert_eq!(predict("own.safetensors")[0]["top"][0]["label"].as_str().unwrap().len(), 3);
    place
        .convoy("export foreign.safetensors x.onnx --model vgg11")
        .refused(2, &["is missing", "the file holds bn1.bias", "Choose the --model"]);
    place.convoy("export foreign.safetensors x.onnx").refused(2, &["--model"]);
    place.convoy("export run/best.safetensors x.onnx --model blocks.toml").refused(2, &["leave out --model"]);
    place.convoy("export run/best.safetensors x.onnx --classes names.txt").refused(2, &["--model"]);
    place.convoy("export run/best.safetensors x.pt").refused(2, &["x.pt", ".onnx or .safetensors"]);
    place.convoy("export run/last.safetensors run/../run/last.safetensors").refused(2, &["goes on from"]);
    place.convoy("export run/best.safetensors run/last.safetensors").refused(2, &["goes on from"]);
    place
        .convoy("export run/best.safetensors nowhere/x.onnx")
        .refused(2, &["nowhere/x.onnx", "cannot write", "the folder is not there"]);
    assert!(!place.path("x.onnx").exists());
}
