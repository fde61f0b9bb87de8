//! Pictures per second of AlexNet in Burn, on the CPU (`flex`) or through wgpu: what convoy's README compares itself with.
//!
//!     cargo run --release --manifest-path benches/alexnet_burn/Cargo.toml --features flex -- BATCH [STEPS]
//!
//! Training is forward, backward and Adam, without the paper's normalisation. Random data in memory, f32; the
//! median step after two. Through wgpu (`--features wgpu`) Burn times its kernels in the first steps, for many minutes on a software
//! device, and keeps what it finds under `XDG_CACHE_HOME`: run it twice. There the first linear layer is made of two, whose results are
//! added: its weight in one piece is larger than what llvmpipe, or a browser, binds.

use std::time::Instant;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};

const CLASSES: usize = 2;
const FEATURES: usize = 256 * 6 * 6;
/// Of the first linear layer.
const PARTS: usize = if cfg!(feature = "wgpu") { 2 } else { 1 };

#[derive(Module, Debug)]
struct AlexNet {
    convs: Vec<Conv2d>,
    pool: MaxPool2d,
    dropout: Dropout,
    fc6: Vec<Linear>,
    fc7: Linear,
    fc8: Linear,
}

impl AlexNet {
    fn new(device: &Device) -> Self {
        let conv = |channels: [usize; 2], kernel: usize, stride: usize, padding: usize| {
            Conv2dConfig::new(channels, [kernel; 2])
                .with_stride([stride; 2])
                .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
                .init(device)
        };
        let part = |number| LinearConfig::new(FEATURES / PARTS, 4096).with_bias(number == 0).init(device);
        AlexNet {
            convs: vec![
                conv([3, 96], 11, 4, 2),
                conv([96, 256], 5, 1, 2),
                conv([256, 384], 3, 1, 1),
                conv([384, 384], 3, 1, 1),
                conv([384, 256], 3, 1, 1),
            ],
            pool: MaxPool2dConfig::new([3, 3]).with_strides([2, 2]).init(),
            dropout: DropoutConfig::new(0.5).init(),
            fc6: (0..PARTS).map(part).collect(),
            fc7: LinearConfig::new(4096, 4096).init(device),
            fc8: LinearConfig::new(4096, CLASSES).init(device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let pooled = [true, true, false, false, true];
        let x = self.convs.iter().zip(pooled).fold(x, |x, (conv, pooled)| {
            let x = relu(conv.forward(x));
            if pooled { self.pool.forward(x) } else { x }
        });
        let x = self.dropout.forward(x.flatten::<2>(1, 3));
        let part = |i: usize| self.fc6[i].forward(x.clone().narrow(1, i * FEATURES / PARTS, FEATURES / PARTS));
        let x = (1..PARTS).fold(part(0), |sum, i| sum + part(i));
        let x = self.dropout.forward(relu(x));
        self.fc8.forward(relu(self.fc7.forward(x)))
    }
}

#[cfg(feature = "wgpu")]
fn device() -> Device {
    Device::wgpu(Default::default())
}

#[cfg(all(feature = "flex", not(feature = "wgpu")))]
fn device() -> Device {
    Device::flex()
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|a| a.parse::<usize>().expect("arguments: BATCH [STEPS]"));
    let (batch, steps) = (numbers.next().unwrap_or(2), numbers.next().unwrap_or(5));
    let device = device().autodiff();
    let mut model = AlexNet::new(&device);
    let mut optimizer = AdamConfig::new().with_epsilon(1e-8).init();
    let loss = CrossEntropyLossConfig::new().init(&device);
    let x = Tensor::<4>::random([batch, 3, 224, 224], Distribution::Normal(0.0, 1.0), &device);
    let labels = (0..batch).map(|i| (i % CLASSES) as i32).collect::<Vec<_>>();
    let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [batch]), &device);
    let mut seconds = Vec::new();
    for _ in 0..2 + steps {
        let start = Instant::now();
        let gradients = loss.forward(model.forward(x.clone()), labels.clone()).backward();
        let gradients = GradientsParams::from_grads(gradients, &model);
        model = optimizer.step(1e-4, model, gradients);
        device.sync().expect("the device finishes a step");
        seconds.push(start.elapsed().as_secs_f64());
        eprintln!("{:.3} s", seconds[seconds.len() - 1]);
    }
    let first = seconds[0];
    let mut counted = seconds.split_off(2);
    counted.sort_by(f64::total_cmp);
    let median = counted[counted.len() / 2];
    println!("{:.3} pictures/s: {median:.3} s a step; the first step took {first:.1} s", batch as f64 / median);
}
