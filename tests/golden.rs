//! convoy against PyTorch: every fixture of `tests/golden/make.py` in `CONVOY_GOLDEN` (default: `tests/golden/data`).

mod common;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use convoy::backend::Device;
use convoy::graph::{Graph, Role, ValueId, autodiff};
use convoy::models::{BuildOptions, Model, OptimizerConfig, train_graph};
use convoy::ops::{
    Activation, ActivationKind, Adam, AvgPool2d, Bias, Conv2d, CrossEntropy, Dropout, DropoutScaling, IGNORE, Linear,
    Lrn, MaxPool2d, Op, Sgd, Softmax,
};
use convoy::selftest::harness;
use convoy::tensor::{Data, Tensor, TensorType};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// (atol, rtol) of an f32 result.
const TOLERANCE: (f64, f64) = (1e-5, 1e-4);

/// One fixture file; `make.py` says what is in it.
struct Fixture {
    name: String,
    kind: String,
    op: String,
    options: String,
    tensors: BTreeMap<String, Tensor>,
}

impl Fixture {
    fn read(path: &Path) -> Fixture {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let metadata = header.metadata().clone().expect("make.py writes metadata");
        let tensors = SafeTensors::deserialize(&bytes).expect("the header was read");
        Fixture {
            name: path.file_stem().expect("a file").to_string_lossy().into_owned(),
            kind: metadata["kind"].clone(),
            op: metadata["op"].clone(),
            options: metadata["options"].clone(),
            tensors: tensors.iter().map(|(name, view)| (name.to_string(), convert(name, &view))).collect(),
        }
    }

    /// The options as the struct of their fields.
    fn options<T: DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.options).unwrap_or_else(|e| panic!("{}: options {}: {e}", self.name, self.options))
    }

    fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.name))
    }

    /// `tensor.0`, `tensor.1`, ... as far as they go.
    fn numbered(&self, prefix: &str) -> Vec<Tensor> {
        (0..).map_while(|n| self.tensors.get(&format!("{prefix}.{n}")).cloned()).collect()
    }

    /// Compares with the tensor `name`.
    fn check(&self, name: &str, got: &Tensor) -> Result<(), String> {
        let what = format!("{}: {name}", self.name);
        common::compare(&what, &common::as_f64(got), &common::as_f64(self.tensor(name)), TOLERANCE)
    }
}

/// f32, u8 and whole numbers: PyTorch's labels are i64, -1 for a row to ignore.
fn convert(name: &str, view: &safetensors::tensor::TensorView) -> Tensor {
    let bytes = view.data();
    let data = match view.dtype() {
        Dtype::F32 => Data::F32(bytemuck::pod_collect_to_vec(bytes)),
        Dtype::U8 => Data::U8(bytes.to_vec()),
        Dtype::I64 => {
            let whole = bytemuck::pod_collect_to_vec::<u8, i64>(bytes);
            Data::U32(whole.iter().map(|&v| if v == -1 { IGNORE } else { u32::try_from(v).expect("u32") }).collect())
        }
        other => panic!("{name}: element type {other:?}"),
    };
    Tensor::new(view.shape().to_vec(), data).expect("safetensors checks its sizes")
}

#[derive(Deserialize)]
struct ConvOptions {
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
    groups: usize,
}

#[derive(Deserialize)]
struct PoolOptions {
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    ceil_mode: bool,
    #[serde(default)]
    count_include_pad: bool,
}

#[derive(Deserialize)]
struct LrnOptions {
    size: usize,
    alpha: f32,
    beta: f32,
    k: f32,
}

#[derive(Deserialize)]
struct DropoutOptions {
    rate: f32,
    stream: u32,
    scaling: String,
}

#[derive(Deserialize)]
struct CrossEntropyOptions {
    label_smoothing: f32,
}

#[derive(Deserialize)]
struct SgdOptions {
    momentum: f32,
    weight_decay: f32,
    nesterov: bool,
    paper: bool,
}

#[derive(Deserialize)]
struct AdamOptions {
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    weight_decay: f32,
    decoupled: bool,
}

/// The op of an `op` fixture.
fn op(fixture: &Fixture) -> Op {
    match fixture.op.as_str() {
        "conv2d" => {
            let ConvOptions { stride, padding, dilation, groups } = fixture.options();
            Conv2d { stride, padding, dilation, groups }.into()
        }
        "max_pool2d" => {
            let PoolOptions { kernel, stride, padding, ceil_mode, .. } = fixture.options();
            MaxPool2d { kernel, stride, padding, ceil_mode }.into()
        }
        "avg_pool2d" => {
            let PoolOptions { kernel, stride, padding, ceil_mode, count_include_pad } = fixture.options();
            AvgPool2d { kernel, stride, padding, ceil_mode, count_include_pad }.into()
        }
        "relu" => Activation { kind: ActivationKind::Relu }.into(),
        "sigmoid" => Activation { kind: ActivationKind::Sigmoid }.into(),
        "tanh" => Activation { kind: ActivationKind::Tanh }.into(),
        "lrn" => {
            let LrnOptions { size, alpha, beta, k } = fixture.options();
            Lrn { size, alpha, beta, k }.into()
        }
        "dropout" => {
            let DropoutOptions { rate, stream, scaling } = fixture.options();
            let scaling = match scaling.as_str() {
                "inverted" => DropoutScaling::Inverted,
                "paper" => DropoutScaling::Paper,
                other => panic!("{}: scaling {other}", fixture.name),
            };
            Dropout { rate, stream, scaling }.into()
        }
        "linear" => Linear.into(),
        "softmax" => Softmax { log: false }.into(),
        "log_softmax" => Softmax { log: true }.into(),
        "cross_entropy" => {
            let CrossEntropyOptions { label_smoothing } = fixture.options();
            CrossEntropy { label_smoothing }.into()
        }
        other => panic!("{}: op {other} is not known to this test", fixture.name),
    }
}

/// Output and gradients of one op (and its bias, where the fixture has one).
fn check_op(device: &mut dyn Device, fixture: &Fixture) -> Result<(), String> {
    let text = |e: convoy::Error| format!("{}: {e}", fixture.name);
    let tensors = fixture.numbered("input");
    let mut graph = Graph::new();
    let inputs: Vec<ValueId> = tensors
        .iter()
        .enumerate()
        .map(|(n, t)| graph.source(&format!("input.{n}"), t.ty(), Role::Input))
        .collect::<convoy::Result<_>>()
        .map_err(text)?;
    let has_bias = matches!(fixture.op.as_str(), "conv2d" | "linear") && inputs.len() == 3;
    let direct = if has_bias { 2 } else { inputs.len() };
    let mut output = graph.apply(&fixture.name, op(fixture), &inputs[..direct]).map_err(text)?;
    if has_bias {
        output = graph.apply(&fixture.name, Bias, &[output, inputs[2]]).map_err(text)?;
    }
    let cotangent = graph.source("cotangent", graph[output].ty.clone(), Role::Input).map_err(text)?;
    let wanted: Vec<usize> =
        (0..inputs.len()).filter(|n| fixture.tensors.contains_key(&format!("gradient.{n}"))).collect();
    let values: Vec<ValueId> = wanted.iter().map(|&n| inputs[n]).collect();
    let gradients = autodiff::backward(&mut graph, output, cotangent, &values).map_err(text)?;

    let mut names = vec!["output".to_string()];
    let mut read = vec![output];
    for (n, gradient) in wanted.iter().zip(gradients) {
        names.push(format!("gradient.{n}"));
        read.push(gradient.ok_or_else(|| format!("{}: no gradient for input {n}", fixture.name))?);
    }
    let mut given: HashMap<ValueId, Tensor> = inputs.iter().copied().zip(tensors).collect();
    given.insert(cotangent, fixture.tensor("cotangent").clone());
    let found = harness::run(device, &graph, &given, &read).map_err(|e| format!("{}: {e}", fixture.name))?;
    names.iter().zip(&found).try_for_each(|(name, got)| fixture.check(name, got))
}

/// The weight after each step of an optimizer.
fn check_optimizer(device: &mut dyn Device, fixture: &Fixture) -> Result<(), String> {
    let text = |e: convoy::Error| format!("{}: {e}", fixture.name);
    let (op, states, betas): (Op, _, _) = match fixture.op.as_str() {
        "sgd" => {
            let SgdOptions { momentum, weight_decay, nesterov, paper } = fixture.options();
            (Sgd { momentum, weight_decay, nesterov, paper, lr_scale: 1.0 }.into(), &["velocity"][..], [0.0, 0.0])
        }
        "adam" => {
            let AdamOptions { beta1, beta2, epsilon, weight_decay, decoupled } = fixture.options();
            let adam = Adam { beta1, beta2, epsilon, weight_decay, decoupled, lr_scale: 1.0 };
            (adam.into(), &["m", "v"][..], [f64::from(beta1), f64::from(beta2)])
        }
        other => panic!("{}: optimizer {other} is not known to this test", fixture.name),
    };
    let initial = fixture.tensor("weight.0");
    let mut graph = Graph::new();
    let weight_name = format!("{}.weight", fixture.name); // a device keeps parameters by name
    let weight = graph.source(&weight_name, initial.ty(), Role::Parameter).map_err(text)?;
    let gradient = graph.source("gradient", initial.ty(), Role::Input).map_err(text)?;
    let mut inputs = vec![weight, gradient];
    for state in states {
        let name = format!("{weight_name}.{state}");
        device.set(&name, &Tensor::zeros(&initial.ty())).map_err(text)?;
        inputs.push(graph.source(&name, initial.ty(), Role::State).map_err(text)?);
    }
    let schedule = graph.source("schedule", TensorType::f32([4]), Role::Input).map_err(text)?;
    inputs.push(schedule);
    graph.apply_all("optimizer", op, &inputs).map_err(text)?;

    device.set(&weight_name, initial).map_err(text)?;
    let mut program = device.compile(&graph, &[]).map_err(text)?;
    let rates = fixture.tensor("lr").as_f32().expect("f32").to_vec();
    for (step, lr) in (1..).zip(rates) {
        let [c1, c2] = betas.map(|beta| (1.0 - beta.powi(step)) as f32);
        program.write(gradient, fixture.tensor(&format!("gradient.{step}"))).map_err(text)?;
        program.write(schedule, &Tensor::f32([4], vec![lr, c1, c2, 0.0])?).map_err(text)?;
        let ticket = program.submit().map_err(text)?;
        program.outputs(ticket, true).map_err(text)?;
        fixture.check(&format!("weight.{step}"), &device.get(&weight_name).map_err(text)?)?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct TrainingOptions {
    model: String,
    batch: usize,
    classes: usize,
    image_size: usize,
    stored_size: usize,
    batches: usize,
    steps: usize,
    mean: [f32; 3],
    std: [f32; 3],
    lr: f64,
    momentum: f32,
    weight_decay: f32,
    label_smoothing: f32,
}

/// Losses and last weights of a training that starts from given weights.
fn check_training(device: &mut dyn Device, fixture: &Fixture) -> Result<(), String> {
    let text = |e: convoy::Error| format!("{}: {e}", fixture.name);
    let options: TrainingOptions = fixture.options();
    let model = Model::parse(&options.model, &fixture.name).map_err(text)?;
    let build = BuildOptions {
        image_size: Some(options.image_size),
        stored_size: Some([options.stored_size; 2]),
        mean: options.mean,
        std: options.std,
        ..BuildOptions::new(options.batch, options.classes)
    };
    let optimizer = OptimizerConfig::sgd(options.momentum, options.weight_decay);
    let train = train_graph(&model, &build, &optimizer, options.label_smoothing).map_err(text)?;
    for parameter in &train.parameters {
        device.set(&parameter.name, fixture.tensor(&format!("initial.{}", parameter.name))).map_err(text)?;
    }
    for (name, ty) in &train.states {
        device.set(name, &Tensor::zeros(ty)).map_err(text)?;
    }
    let mut program = device.compile(&train.graph, &[train.loss]).map_err(text)?;
    let mut losses = Vec::new();
    for step in 0..options.steps {
        let batch = step % options.batches;
        let counter = Tensor::u32([4], vec![0, 0, step as u32, 0])?;
        let schedule = optimizer.schedule(options.lr, step as u64 + 1);
        program.write(train.pictures, fixture.tensor(&format!("pictures.{batch}"))).map_err(text)?;
        program.write(train.labels, fixture.tensor(&format!("labels.{batch}"))).map_err(text)?;
        program.write(train.counter, &counter).map_err(text)?;
        program.write(train.schedule, &Tensor::f32([4], schedule.to_vec())?).map_err(text)?;
        let ticket = program.submit().map_err(text)?;
        let outputs = program.outputs(ticket, true).map_err(text)?.expect("waited for");
        losses.push(common::as_f64(&outputs[0])[0]);
    }
    let what = format!("{}: losses", fixture.name);
    common::compare(&what, &losses, &common::as_f64(fixture.tensor("losses")), (0.0, 1e-4))?;
    for parameter in &train.parameters {
        fixture.check(&format!("final.{}", parameter.name), &device.get(&parameter.name).map_err(text)?)?;
    }
    Ok(())
}

fn check_all(device: &mut dyn Device) {
    let folder = std::env::var_os("CONVOY_GOLDEN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data"), PathBuf::from);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{}: no fixtures; tests/golden/make.py writes them", folder.display());
    let mut failures = Vec::new();
    for path in &paths {
        let fixture = Fixture::read(path);
        let result = match fixture.kind.as_str() {
            "op" => check_op(device, &fixture),
            "optimizer" => check_optimizer(device, &fixture),
            "training" => check_training(device, &fixture),
            other => panic!("{}: kind {other} is not known to this test", fixture.name),
        };
        failures.extend(result.err());
    }
    common::assert_none(failures);
}

#[test]
fn cpu_agrees_with_pytorch() {
    check_all(&mut *common::cpu());
}

#[test]
fn gpu_agrees_with_pytorch() {
    check_all(&mut *common::gpu());
}
