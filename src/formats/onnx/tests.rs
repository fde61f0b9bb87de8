use std::process::Command;

use super::*;
use crate::backend::Device;
use crate::backend::cpu::CpuDevice;
use crate::classifier::Evaluator;
use crate::data::{Batch, Resize};
use crate::models::{Model, ParameterKind};
use crate::ops::DropoutScaling;
use crate::rng::{Philox, stream};
use crate::tensor::Data;

/// A network with weights as if it were trained: no batch normalisation is the identity.
fn checkpoint(model: Model, image_size: Option<usize>, change: impl FnOnce(&mut Checkpoint)) -> Checkpoint {
    let [_, height, width] = model.input;
    let mut checkpoint = Checkpoint {
        model,
        classes: (0..7).map(|n| format!("class {n}")).collect(),
        image_size,
        stored_size: image_size.map_or([height, width], |side| [side, side]),
        resize: Resize::Stretch,
        mean: [0.4, 0.5, 0.3],
        mean_image: false,
        std: [0.2, 0.25, 0.3],
        dropout: None,
        dropout_scaling: DropoutScaling::Inverted,
        epoch: 1,
        top1: None,
        extra: BTreeMap::new(),
        tensors: BTreeMap::new(),
    };
    change(&mut checkpoint);
    let network = eval_graph(&checkpoint.model, &checkpoint.build_options(1)).unwrap();
    for parameter in &network.parameters {
        let fan_in: usize = parameter.shape[1..].iter().product();
        let mut values = vec![0.0; parameter.shape.elements()];
        Philox { seed: 5, stream: stream::TEST, step: parameter.number }.normal_from(0, &mut values);
        let of = |value: f32| match (parameter.kind, parameter.name.ends_with("running_var")) {
            (ParameterKind::Weight, _) => value / (fan_in as f32 / 2.0).sqrt(),
            (ParameterKind::Scale, _) | (_, true) => 0.5 + value.abs(),
            _ => 0.1 * value,
        };
        values.iter_mut().for_each(|value| *value = of(*value));
        let tensor = Tensor::f32(parameter.shape.clone(), values).unwrap();
        checkpoint.tensors.insert(parameter.name.clone(), tensor);
    }
    checkpoint
}

/// Every kind of layer, and what runtimes may see otherwise: windows that reach over the edge, groups, what is not square.
const ALL_KINDS: &str = r#"
name = "all-kinds"
about = "every kind of layer"
input = [3, 29, 37]
activation = "gelu"
layers = [
    { kind = "conv2d", out = 12, kernel = [5, 3], stride = [1, 2], padding = [2, 0] },
    "activation",
    { kind = "lrn", size = 3, alpha = 0.3, beta = 0.6, k = 1.5, groups = 2 },
    { kind = "max_pool2d", kernel = 3, stride = 2, padding = 1, ceil_mode = true },
    { kind = "conv2d", out = 8, kernel = 3, padding = 2, dilation = 2, groups = 4, bias = false },
    "sigmoid",
    { name = "a", kind = "avg_pool2d", kernel = [3, 2], stride = 2, padding = 1, ceil_mode = true },
    { name = "b", from = "sigmoid2", kind = "avg_pool2d", kernel = [3, 2], stride = 2, padding = 1, ceil_mode = true, count_include_pad = false },
    { kind = "concat", from = ["a", "b"] },
    "batch_norm",
    { name = "left", kind = "conv2d", out = 8, kernel = 1, bias = false },
    { kind = "batch_norm", epsilon = 1e-3 },
    { name = "l", kind = "leaky_relu" },
    { name = "logits", from = "left", kind = "tanh" },
    { kind = "add", from = ["l", "logits", "l"] },
    { kind = "avg_pool2d", kernel = 2, stride = 3 },
    { kind = "lrn" },
    "flatten",
    { kind = "dropout", rate = 0.25 },
    { kind = "linear", out = 19, bias = false },
    "relu",
    { kind = "linear", out = "classes" },
]
"#;

fn all_kinds() -> Checkpoint {
    checkpoint(Model::parse(ALL_KINDS, "all-kinds.toml").unwrap(), None, |it| {
        it.dropout_scaling = DropoutScaling::Paper
    })
}

/// Fields of a message: number, and integer or bytes.
fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = bytes.split_first().unwrap();
            value |= u64::from(first & 0x7f) << shift;
            *bytes = rest;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let (value, content): (u64, &[u8]) = match tag & 7 {
            0 => (varint(&mut bytes), &[]),
            2 => {
                let length = varint(&mut bytes) as usize;
                (0, bytes.split_off(..length).unwrap())
            }
            5 => (0, bytes.split_off(..4).unwrap()),
            other => panic!("wire type {other}"),
        };
        fields.push((tag >> 3, value, content));
    }
    fields
}

fn all<'a>(message: &[(u64, u64, &'a [u8])], field: u64) -> Vec<&'a [u8]> {
    message.iter().filter(|(number, ..)| *number == field).map(|(_, _, content)| *content).collect()
}

fn text(message: &[u8], field: u64) -> String {
    String::from_utf8(all(&fields(message), field)[0].to_vec()).unwrap()
}

/// What other readers rely on: nodes in an order in which they can run, each name given once, weights as they are.
#[test]
fn an_onnx_file_is_consistent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.onnx");
    for checkpoint in [checkpoint(Model::find("four-layer").unwrap(), None, |_| ()), all_kinds()] {
        let (weights, classes) = (checkpoint.tensors.clone(), checkpoint.classes.clone());
        let plain = checkpoint.model.name == "four-layer";
        checkpoint.save_onnx(&path).unwrap();
        let file = std::fs::read(&path).unwrap();
        let model = fields(&file);
        assert_eq!((model[0].0, model[0].1), (1, 8), "the format's version");
        let [graph] = all(&model, 7)[..] else { panic!("one graph") };
        let set = fields(all(&model, 8)[0]);
        assert_eq!(set[1].1, 17, "the operator set");
        let entries = all(&model, 14);
        let entry = entries.iter().find(|entry| text(entry, 1) == "classes").unwrap();
        assert_eq!(serde_json::from_str::<Vec<String>>(&text(entry, 2)).unwrap(), classes);
        let graph = fields(graph);
        let mut known = vec!["pictures".to_string()];
        for initializer in all(&graph, 5) {
            let name = text(initializer, 8);
            let tensor = fields(initializer);
            let extents: u64 = tensor.iter().filter(|(number, ..)| *number == 1).map(|(_, extent, _)| extent).product();
            let element = tensor.iter().find(|(number, ..)| *number == 2).unwrap().1;
            let data = all(&tensor, 9)[0];
            assert_eq!(data.len() as u64, extents * if element == 7 { 8 } else { 4 }, "{name}");
            if plain && let Some(weight) = weights.get(&name) {
                assert!(data == weight.bytes(), "{name}");
            }
            assert!(!known.contains(&name), "{name} is there twice");
            known.push(name);
        }
        let mut operators = Vec::new();
        for node in all(&graph, 1) {
            let (name, operator) = (text(node, 3), text(node, 4));
            for input in all(&fields(node), 1) {
                let input = std::str::from_utf8(input).unwrap();
                assert!(known.iter().any(|name| name == input), "{name} reads {input} too early");
            }
            let output = text(node, 2);
            assert!(!known.contains(&output), "{output} is there twice");
            known.push(output);
            operators.push(operator);
        }
        let told: Vec<String> =
            [11, 12].iter().flat_map(|&field| all(&graph, field)).map(|info| text(info, 1)).collect();
        assert_eq!(told, ["pictures", "logits", "probabilities"]);
        assert!(told.iter().all(|name| known.contains(name)));
        if plain {
            assert_eq!(
                operators.join(" "),
                "Cast Transpose Sub Div Conv MaxPool Relu Conv Relu AveragePool Conv Relu AveragePool Flatten Gemm \
                 Identity Softmax"
            );
        }
    }
}

#[test]
fn a_tensor_that_is_missing_is_told() {
    let mut checkpoint = all_kinds();
    checkpoint.tensors.remove("left.weight");
    let error = checkpoint.save_onnx(Path::new("never.onnx")).unwrap_err().to_string();
    assert!(error.contains("left.weight"), "{error}");
}

/// onnxruntime computes what our CPU backend does, of every model of the zoo and every kind of layer.
#[test]
#[ignore = "needs `tests/compilers/install onnxruntime`"]
fn onnxruntime_agrees() {
    let zoo = |name: &str| Model::find(name).unwrap();
    let mut networks = vec![
        ("all-kinds", all_kinds()),
        ("cropped", checkpoint(zoo("cuda-convnet"), None, |it| it.stored_size = [41, 38])),
        ("mean-image", checkpoint(zoo("lenet"), None, |it| (it.stored_size, it.mean_image) = ([35, 36], true))),
        ("smaller", checkpoint(zoo("alexnet"), Some(127), |_| ())),
    ];
    networks.extend(Model::zoo().into_iter().map(|name| (name, checkpoint(zoo(name), None, |_| ()))));
    let folder = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for (name, checkpoint) in networks {
        let (pictures, logits) = ours(&checkpoint);
        let file = |extension: &str| folder.path().join(name).with_added_extension(extension);
        std::fs::write(file("u8"), pictures).unwrap();
        checkpoint.save_onnx(&file("onnx")).unwrap();
        expected.push((file("logits"), file("probabilities"), logits));
    }
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let run = Command::new("python3")
        .arg(tests.join("tests/compilers/run_onnx.py"))
        .arg(folder.path())
        .env("PYTHONPATH", tests.join("target/compilers/onnxruntime"))
        .output()
        .unwrap();
    assert!(run.status.success(), "{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    let read = |path: &Path| -> Vec<f32> {
        std::fs::read(path).unwrap().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    };
    let mut worst = 0.0_f32;
    for (logits, probabilities, ours) in expected {
        let (theirs, shares) = (read(&logits), read(&probabilities));
        assert_eq!(theirs.len(), ours.len());
        let largest = ours.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
        let spread = ours.iter().fold(f32::INFINITY, |least, value| least.min(*value));
        assert!(largest - spread > 1e-3, "{}: all logits are the same", logits.display());
        let error = ours.iter().zip(&theirs).fold(0.0, |error: f32, (a, b)| error.max((a - b).abs())) / largest;
        assert!(error < 1e-4, "{}: {error}\nours {ours:?}\ntheirs {theirs:?}", logits.display());
        worst = worst.max(error);
        for (row, shares) in ours.chunks(7).zip(shares.chunks(7)) {
            let softmax = crate::train::metrics::softmax(row);
            assert!(
                softmax.into_iter().zip(shares).all(|(a, &b)| (a - f64::from(b)).abs() < 1e-3),
                "{}",
                logits.display()
            );
        }
    }
    println!(
        "{} networks, logits off by {worst:e} at most; {}",
        Model::zoo().len() + 4,
        String::from_utf8_lossy(&run.stdout)
    );
}

/// Two pictures, and their logits on the CPU.
fn ours(checkpoint: &Checkpoint) -> (Vec<u8>, Vec<f32>) {
    let [height, width] = checkpoint.stored_size;
    let random = Philox { seed: 9, stream: stream::TEST, step: 0 };
    let pixels: Vec<u8> = (0..2 * height * width * 3).map(|n| (random.word(n as u32) >> 24) as u8).collect();
    let mut device = CpuDevice::new(None).unwrap();
    for (name, tensor) in &checkpoint.tensors {
        device.set(name, tensor).unwrap();
    }
    let mut evaluator = Evaluator::new(&mut device, &checkpoint.model, &checkpoint.build_options(2)).unwrap();
    let batch = Batch {
        pictures: Tensor::new([2, height, width, 3], Data::U8(pixels.clone())).unwrap(),
        labels: Tensor::u32([2], vec![0, 1]).unwrap(),
        items: vec![Some(0), Some(1)],
        count: 2,
    };
    let mut found = Vec::new();
    evaluator
        .run([Ok(batch)].into_iter(), |_, logits| {
            found.extend(logits.as_f32().unwrap());
            true
        })
        .unwrap();
    (pixels, found)
}
