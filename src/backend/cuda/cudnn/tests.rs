use std::path::Path;

use super::*;
use crate::backend::cuda::fake::built;
use crate::backend::cuda::library;

/// A description of an H100 as cuDNN wants one, so that it plans for a GPU that is not there.
const H100: &str = r#"{"deviceVer":900,"driverVer":13000,"maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],
    "regsPerBlock":65536,"multiProcessorCount":132,"smClockRateKHz":1980000,"memClockRateKHz":2619000,"memoryBusWidth":5120,
    "l2CacheSize":52428800,"warpSize":32,"maxSharedMemoryPerBlock":49152,"maxSharedMemoryPerBlockOptin":232448,
    "reservedSharedMemoryPerBlock":1024,"maxRegistersPerSM":65536,"pciDeviceId":0,"maxCtasPerSM":32,"maxThreadsPerBlock":1024,
    "maxThreadsPerSM":2048,"isTccDriver":0,"supportCoopLaunch":1,"totalGlobalMem":85029158912,"deviceName":"NVIDIA H100 80GB HBM3",
    "cudaDeviceId":0,"maxSharedMemoryPerSM":233472}"#;

impl Cudnn {
    /// The library for a GPU that is not there.
    fn described(library: &'static Library) -> Result<Cudnn> {
        let functions = Arc::new(Functions::of(library).unwrap());
        let mut cudnn =
            Cudnn { functions, handle: None, described: None, most_workspace: 2 << 30, known: Mutex::default() };
        let described = cudnn.new_descriptor(38)?;
        described.set(2702, Kind::Character, H100.as_bytes())?;
        described.finalize()?;
        cudnn.described = Some(described);
        Ok(cudnn)
    }
}

/// cuDNN itself has engines for AlexNet's convolutions in all passes, with bias and ReLU, that keep to f32, and others with tensor cores.
/// In a process of its own: the stand-in has the same name.
#[test]
#[ignore = "needs `tests/compilers/install cudnn`, 1 GB"]
fn cudnn_itself_plans_alexnet() {
    let Some(driver) = built() else { return };
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/compilers/cudnn/nvidia");
    let [folder, of_cublas] = ["cudnn/lib", "cu13/lib"].map(|folder| packages.join(folder));
    let load = |name: &str, folder: &Path| -> &'static Library {
        let library = library::load(&[name], &[folder.into()], |_| Ok(())).unwrap_or_else(|e| panic!("{e}"));
        Box::leak(Box::new(library))
    };
    load("libcuda.so.1", &driver);
    load("libcublasLt.so.13", &of_cublas);
    let cudnn = Cudnn::described(load("libcudnn.so.9", &folder)).unwrap();
    let mut plans = 0;
    for batch in [1, 128, 512] {
        // Channels, side, outputs, filter, stride, padding, groups.
        for [c, side, o, r, stride, padding, groups] in [
            [3, 224, 96, 11, 4, 2, 1],
            [4, 224, 96, 11, 4, 2, 1], // the first one, as TF32 has it with channels together
            [8, 224, 96, 11, 4, 2, 1], // and bfloat16
            [96, 27, 256, 5, 1, 2, 1],
            [256, 13, 384, 3, 1, 1, 1],
            [384, 13, 384, 3, 1, 1, 1],
            [384, 13, 256, 3, 1, 1, 1],
            [96, 27, 256, 5, 1, 2, 2],
        ] {
            let p = (side + 2 * padding - r) / stride + 1;
            let of = |pass, epilogue| Convolution {
                pass,
                x: [batch, c, side, side],
                w: [o, c / groups, r, r],
                y: [batch, o, p, p],
                stride: [stride; 2],
                padding: [padding; 2],
                dilation: [1; 2],
                epilogue,
                nhwc: false,
            };
            for convolution in [
                of(Pass::Forward, None),
                of(Pass::Forward, Some(false)),
                of(Pass::Forward, Some(true)),
                of(Pass::BackwardInput, None),
                of(Pass::BackwardWeight, None),
            ] {
                for (precision, nhwc) in [
                    (Precision::F32, false),
                    (Precision::Tf32, false),
                    (Precision::Tf32, true),
                    (Precision::Bf16, false),
                    (Precision::Bf16, true),
                ] {
                    let together = if precision == Precision::Bf16 { 8 } else { 4 };
                    if nhwc && c % together > 0 {
                        continue;
                    }
                    let convolution = Convolution { nhwc, ..convolution.clone() };
                    let plan = cudnn.plan(&convolution, precision, 0).unwrap();
                    assert!(plan.is_some(), "no plan in {precision:?} for {convolution:?}");
                    plans += 1;
                }
            }
        }
    }
    let wrong = |change: fn(&mut Convolution)| {
        let mut convolution = Convolution {
            pass: Pass::Forward,
            x: [2, 8, 9, 9],
            w: [16, 8, 3, 3],
            y: [2, 16, 7, 7],
            stride: [1; 2],
            padding: [0; 2],
            dilation: [1; 2],
            epilogue: None,
            nhwc: false,
        };
        assert!(cudnn.plan(&convolution, Precision::F32, 0).unwrap().is_some());
        change(&mut convolution);
        cudnn.plan(&convolution, Precision::F32, 0).unwrap().is_none()
    };
    assert!(wrong(|it| it.y[3] = 8) && wrong(|it| it.w[1] = 3));
    println!("{plans} plans of cuDNN {}", cudnn.version());
}
