//! A process that runs cases on mutants: a mutant may hang the device or bring the process down, and the next one must not
//! suffer.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use convoy::backend::DeviceOptions;
use convoy::backend::wgpu::adapter::{Adapter, adapters};
use convoy::backend::wgpu::{Matrices, WgpuDevice};
use convoy::backend::{Device, Finding, Precision};
use convoy::ops::case::Case;
use convoy::selftest::{Kind, Selection, Suite};
use naga::valid::{Capabilities, ValidationFlags, Validator};

use crate::compose::{Read, Source};
use crate::{Args, Mutant};

/// What became of a mutant.
pub enum Verdict {
    /// A case went wrong, this one.
    Noticed(String),
    /// The process hung or crashed.
    Stopped,
    /// It is no valid shader.
    Invalid,
    /// Every case is right.
    Survives,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Noticed(by) => write!(f, "noticed by {by}"),
            Verdict::Stopped => f.write_str("hung or crashed"),
            Verdict::Invalid => f.write_str("does not compile"),
            Verdict::Survives => f.write_str("survives"),
        }
    }
}

/// What a worker says while it is at work on a mutant.
const ALIVE: &str = "alive";

/// A worker process, from outside.
pub struct Worker {
    patience: Duration,
    /// Seconds.
    budget: u64,
    process: Option<Process>,
}

struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Worker {
    /// A worker that is given up when its patience ends without a word.
    pub fn new(args: &Args) -> Self {
        let Args { patience, budget, .. } = *args;
        Worker { patience: Duration::from_secs(patience), budget, process: None }
    }

    /// Has a mutant judged, by its number.
    ///
    /// # Errors
    /// When there is no process to be had, or it fails before its first mutant.
    pub fn judge(&mut self, number: usize) -> Result<Verdict, String> {
        let process = match &mut self.process {
            Some(process) => process,
            None => self.process.insert(Process::start(self.budget)?),
        };
        // A process that ended while it was idle is noticed below.
        writeln!(process.stdin, "{number}").ok();
        loop {
            let Ok(line) = process.lines.recv_timeout(self.patience) else {
                self.stop();
                return Ok(Verdict::Stopped);
            };
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("noticed", by) => return Ok(Verdict::Noticed(by.to_string())),
                ("invalid", _) => return Ok(Verdict::Invalid),
                ("survives", _) => return Ok(Verdict::Survives),
                _ => {}
            }
        }
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.child.kill().ok();
            process.child.wait().ok();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Process {
    fn start(budget: u64) -> Result<Process, String> {
        let text = |e: std::io::Error| format!("a worker cannot be started: {e}");
        let program = std::env::current_exe().map_err(text)?;
        let mut command = Command::new(program);
        command
            .args(["--worker", "--budget", &budget.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().map_err(text)?;
        let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        // The references of all cases take a while.
        match lines.recv_timeout(Duration::from_secs(600)).as_deref() {
            Ok(ALIVE) => Ok(Process { child, stdin, lines }),
            Ok(other) => Err(format!("a worker failed: {other}")),
            Err(_) => Err("a worker ended before it began: `echo | mutate --worker` shows why".into()),
        }
    }
}

/// Kinds of devices, as tests/shaders.rs and tests/whole/bindings.rs have them: each has kernels, or ways through them, that the others do not take.
fn devices() -> [DeviceOptions; 11] {
    let options = |gpu_kernels, max_binding_bytes| DeviceOptions {
        poison: true,
        checked: true, // a mutant may reach anywhere
        gpu_kernels,
        max_binding_bytes,
        grid_side: max_binding_bytes.map(|_| 5),
        ..DeviceOptions::default()
    };
    let candidate = |candidate| DeviceOptions { candidate, ..options(true, None) };
    [
        options(true, None),
        options(false, None),
        options(false, Some(4 * 1024)),
        options(false, Some(56 * 1024)),
        options(true, Some(56 * 1024)),
        // Of tiles those that are not square.
        candidate(2),
        candidate(3),
        // The first that fetches ahead.
        candidate(8),
        DeviceOptions { precision: Precision::F16 { loss_scale: 8.0 }, ..options(true, None) },
        // Those of matrices: a convolution's and a fully connected layer's.
        DeviceOptions { matrices: Some(Matrices { size: 8, subgroup: 32 }), ..candidate(10) },
        DeviceOptions { matrices: Some(Matrices { size: 8, subgroup: 64 }), ..candidate(5) },
    ]
}

/// A case on a kind of device.
struct Trial {
    device: usize,
    case: usize,
    /// Whether it is right without a mutation, once known.
    right: Option<bool>,
    killed: u32,
}

/// The worker process, from inside: answers each number on stdin by a verdict on stdout.
///
/// # Errors
/// No device, or stdin or stdout are gone.
pub fn serve(files: &BTreeMap<PathBuf, String>, mutants: &[Mutant], budget: Duration) -> Result<(), Box<dyn Error>> {
    let adapter = adapters(false).into_iter().next().ok_or("no GPU or software Vulkan device")?;
    let mut judge = Judge::new(files, adapter)?;
    println!("{ALIVE}");
    for line in std::io::stdin().lines() {
        let mutant = &mutants[line?.trim().parse::<usize>()?];
        println!("{}", judge.judge(mutant, budget)?);
    }
    Ok(())
}

/// The shader that begins with a file, in 16-bit floats where it has such a twin.
fn compose(file: &Path, f16: bool, read: Read) -> Result<Option<Source>, String> {
    if f16 { Source::compose_f16(file, read) } else { Source::compose(file, read).map(Some) }
}

struct Judge<'a> {
    files: &'a BTreeMap<PathBuf, String>,
    /// The shaders as they run here, with the file that they begin with, whether in 16-bit floats, and the text that the binary has.
    sources: Vec<(PathBuf, bool, Source, String)>,
    adapter: Adapter,
    suite: Suite,
    /// The devices without a mutation.
    sound: Vec<WgpuDevice>,
    findings: Vec<Finding>,
    /// By the file that they depend on.
    trials: HashMap<PathBuf, Vec<Trial>>,
}

impl<'a> Judge<'a> {
    fn new(files: &'a BTreeMap<PathBuf, String>, adapter: Adapter) -> Result<Self, Box<dyn Error>> {
        let mut sources = Vec::new();
        for (file, f16) in files.keys().flat_map(|file| [(file, false), (file, true)]) {
            let source = compose(file, f16, &|path| Ok(files[path].clone()))?;
            let own = compose(file, f16, &|path| std::fs::read_to_string(path))?;
            sources.extend(source.zip(own).map(|(source, own)| (file.clone(), f16, source, own.text)));
        }
        let suite = Suite::new(&Selection::default());
        let in_place = |(_, _, source, own): &(_, _, Source, String)| (own.clone(), source.text.clone());
        let replace: HashMap<_, _> = sources.iter().map(in_place).collect();
        let open = |options| WgpuDevice::open(&adapter, &DeviceOptions { replace: replace.clone(), ..options });
        let mut sound = devices().into_iter().map(open).collect::<convoy::Result<Vec<_>>>()?;
        let by_text: HashMap<&str, &Source> =
            sources.iter().map(|(_, _, source, own)| (own.as_str(), source)).collect();
        let mut trials: HashMap<PathBuf, Vec<Trial>> = HashMap::new();
        for (device, (opened, options)) in sound.iter().zip(devices()).enumerate() {
            let kind = Kind::new("", options);
            let wanted = |case: &Case| (kind.options.candidate == 0 && !kind.rounds()) || kind.takes(case);
            let cases = suite.cases().iter().enumerate();
            for (case, prepared) in cases.filter(|(_, prepared)| wanted(&prepared.case)) {
                let mut depends: Vec<&Path> = Vec::new();
                for text in opened.sources(&prepared.case) {
                    let source = by_text.get(text.as_ref()).ok_or("the binary has other shaders than the folder")?;
                    depends.extend(source.files.iter().map(PathBuf::as_path));
                }
                depends.sort();
                depends.dedup();
                // What the kernels of matrices share with others is tried with those, which compile faster.
                depends.retain(|file| kind.options.matrices.is_none() || file.ends_with("conv2d_matrices.wgsl"));
                for file in depends {
                    let trial = Trial { device, case, right: None, killed: 0 };
                    trials.entry(file.to_path_buf()).or_default().push(trial);
                }
            }
        }
        let findings = sound[0].probe()?;
        // Fixed cases first, small ones before large ones.
        let order = |trial: &Trial| {
            let prepared = &suite.cases()[trial.case];
            let elements: usize = prepared.case.inputs.iter().map(|x| x.ty.shape.elements()).sum();
            (prepared.is_random(), elements)
        };
        trials.values_mut().for_each(|trials| trials.sort_by_key(order));
        Ok(Judge { files, sources, adapter, suite, sound, findings, trials })
    }

    /// The verdict, in a word or two.
    fn judge(&mut self, mutant: &Mutant, budget: Duration) -> convoy::Result<String> {
        let mutated = |path: &Path| {
            let text = &self.files[path];
            Ok(if path == mutant.file { mutant.mutation.apply(text) } else { text.clone() })
        };
        let mut replace = HashMap::new();
        for (file, f16, source, own) in &self.sources {
            if !source.files.contains(&mutant.file) {
                replace.insert(own.clone(), source.text.clone());
                continue;
            }
            match compose(file, *f16, &mutated) {
                Ok(Some(changed)) if is_valid(&changed.text) => replace.insert(own.clone(), changed.text),
                _ => return Ok("invalid".into()),
            };
        }
        let open = |device: usize| {
            let options = devices().into_iter().nth(device).expect("a kind of device");
            WgpuDevice::open(&self.adapter, &DeviceOptions { replace: replace.clone(), ..options })
        };
        // The checks of the device itself are no case of an op.
        if mutant.file.to_string_lossy().contains("probe") {
            let found = open(0)?.probe();
            let lies = |(one, other): (&Finding, &Finding)| {
                let judged = |finding: &Finding| (finding.right, finding.avoided);
                // Where the device is free, the text says what it does, and no test can know better.
                judged(one) != judged(other) || (one.probe != "float edges" && one.found != other.found)
            };
            let same = found.is_ok_and(|found| !found.iter().zip(&self.findings).any(lies));
            return Ok(if same { "survives".into() } else { "noticed the checks of the device".into() });
        }
        let mut changed: Vec<Option<WgpuDevice>> = devices().iter().map(|_| None).collect();
        let Some(trials) = self.trials.get_mut(&mutant.file) else { return Ok("survives".into()) };
        let mut spent = Duration::ZERO;
        for n in 0..trials.len() {
            if spent > budget {
                break;
            }
            let trial = &mut trials[n];
            let prepared = &self.suite.cases()[trial.case];
            let sound = &mut self.sound[trial.device];
            let kind = Kind::new("", devices()[trial.device].clone());
            // A case that the device refuses for its size convicts nobody.
            if !*trial.right.get_or_insert_with(|| prepared.check_on(&kind, sound).is_ok()) {
                continue;
            }
            if changed[trial.device].is_none() {
                changed[trial.device] = Some(open(trial.device)?);
            }
            let device = changed[trial.device].as_mut().expect("opened above");
            println!("{ALIVE}");
            let start = Instant::now();
            let noticed = prepared.check_on(&kind, device).is_err();
            spent += start.elapsed();
            if noticed {
                trial.killed += 1;
                let verdict = format!("noticed {}", prepared.case.label());
                // Next time the sharpest come first.
                trials.sort_by_key(|trial| std::cmp::Reverse(trial.killed));
                return Ok(verdict);
            }
        }
        Ok("survives".into())
    }
}

fn is_valid(source: &str) -> bool {
    let capabilities = Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16;
    let validate = |module| Validator::new(ValidationFlags::all(), capabilities).validate(&module).is_ok();
    naga::front::wgsl::parse_str(source).is_ok_and(validate)
}
