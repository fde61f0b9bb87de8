//! Tests the tests: changes one token of a shader at a time and runs the cases whose kernels it is part of. A mutant that no
//! case notices shows a hole in the cases, or that the token does not matter (`equivalent.toml` says which, and why).
//!
//! `cargo run --release --example mutate -- [--file NAME]... [--sample N] [--seed N]`

#[path = "../../src/backend/wgpu/compose.rs"]
mod compose;
mod tokens;
mod worker;

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use clap::Parser;
use convoy::rng::{Philox, stream};
use serde::Deserialize;
use tokens::Mutation;
use worker::{Verdict, Worker};

/// Changes shaders one token at a time and reports which changes no case notices.
#[derive(Parser)]
struct Args {
    /// Only these files of shaders/, without .wgsl
    #[arg(long = "file", value_name = "NAME")]
    files: Vec<String>,
    /// Mutants to try, drawn at random from all; without it all
    #[arg(long, value_name = "N")]
    sample: Option<usize>,
    /// Which mutants are drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Mutants tried at once, each in a process of its own
    #[arg(long, default_value_t = thread::available_parallelism().map_or(1, Into::into))]
    jobs: usize,
    /// Seconds that a case may take before its mutant counts as noticed
    #[arg(long, default_value_t = 120)]
    patience: u64,
    /// Seconds of cases that a mutant is tried with before it counts as a survivor
    #[arg(long, default_value_t = 120)]
    budget: u64,
    /// Try the mutants of equivalent.toml too
    #[arg(long)]
    equivalents: bool,
    /// Print every mutant and who noticed it
    #[arg(long, short)]
    verbose: bool,
    #[arg(long, hide = true)]
    worker: bool,
}

/// A shader with one token changed.
struct Mutant {
    file: PathBuf,
    mutation: Mutation,
    /// The line and the change in it; with `#2` the second one of a file that reads so.
    description: String,
}

/// A file of functions that software devices do not have, and what runs in its place.
const MATRICES: [&str; 2] = ["shaders/matrices.wgsl", "tests/common/matrices.wgsl"];

/// A file of the repository.
fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

/// The files of `shaders/` by path, with what runs on software devices.
fn shaders() -> Result<BTreeMap<PathBuf, String>, Box<dyn Error>> {
    let folder = path("shaders");
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        files.insert(path.clone(), fs::read_to_string(path)?);
    }
    let [own, in_place] = MATRICES.map(path);
    files.insert(own, fs::read_to_string(in_place)?);
    Ok(files)
}

/// Every mutant of every file, in an order that parent and workers agree on.
fn mutants(files: &BTreeMap<PathBuf, String>) -> Vec<Mutant> {
    let of_file = |(file, text): (&PathBuf, &String)| {
        let (file, text) = (file.clone(), text.clone());
        let mut seen: HashMap<String, usize> = HashMap::new();
        tokens::mutations(&text).into_iter().map(move |mutation| {
            let mut description = mutation.describe(&text);
            let nth = seen.entry(description.clone()).and_modify(|nth| *nth += 1).or_insert(1);
            if *nth > 1 {
                description += &format!(" #{nth}");
            }
            Mutant { file: file.clone(), mutation, description }
        })
    };
    let [matrices, _] = MATRICES.map(path);
    files.iter().filter(|(file, _)| **file != matrices).flat_map(of_file).collect()
}

fn stem(file: &Path) -> &str {
    file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
}

/// Mutants that no case can notice, as `equivalent.toml` lists them.
#[derive(Deserialize)]
struct Equivalent {
    file: String,
    /// As [`Mutant::description`] has them.
    mutants: Vec<String>,
    /// What another device may show of them: they are no equivalents.
    apart: Option<String>,
    #[allow(dead_code)] // for who reads the file
    why: String,
}

#[derive(Deserialize)]
struct Equivalents {
    equivalent: Vec<Equivalent>,
}

/// What became of mutants.
#[derive(Default)]
struct Tally {
    killed: usize,
    /// The worker hung or crashed: noticed too, but by no case's numbers.
    stopped: usize,
    invalid: usize,
    equivalent: usize,
    apart: usize,
    survivors: usize,
}

impl Tally {
    /// `listed`: the mutant's entry in `equivalent.toml`.
    fn add(&mut self, verdict: &Verdict, listed: Option<&Equivalent>) {
        let count = match verdict {
            Verdict::Noticed(_) => &mut self.killed,
            Verdict::Stopped => &mut self.stopped,
            Verdict::Invalid => &mut self.invalid,
            Verdict::Survives => match listed {
                Some(Equivalent { apart: Some(_), .. }) => &mut self.apart,
                Some(_) => &mut self.equivalent,
                None => &mut self.survivors,
            },
        };
        *count += 1;
    }

    /// Those that compile.
    fn valid(&self) -> usize {
        self.killed + self.stopped + self.equivalent + self.apart + self.survivors
    }
}

impl Equivalents {
    /// The entries by their mutants' numbers.
    ///
    /// # Errors
    /// A mutant of the list does not exist (any more).
    fn by_number(&self, mutants: &[Mutant]) -> Result<HashMap<usize, &Equivalent>, String> {
        let key =
            |(number, mutant): (usize, &Mutant)| ((stem(&mutant.file).to_string(), mutant.description.clone()), number);
        let known: HashMap<(String, String), usize> = mutants.iter().enumerate().map(key).collect();
        let mut numbers = HashMap::new();
        for entry in &self.equivalent {
            let file = &entry.file;
            for mutant in &entry.mutants {
                let number = known.get(&(file.clone(), mutant.clone()));
                let number = number.ok_or_else(|| format!("equivalent.toml: {file}.wgsl has no mutant `{mutant}`"))?;
                numbers.insert(*number, entry);
            }
        }
        Ok(numbers)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let files = shaders()?;
    let mutants = mutants(&files);
    if args.worker {
        return worker::serve(&files, &mutants, Duration::from_secs(args.budget));
    }
    let start = Instant::now();
    let equivalents: Equivalents = toml::from_str(include_str!("equivalent.toml"))?;
    let listed = equivalents.by_number(&mutants)?;
    let selected = |n: &usize| args.files.is_empty() || args.files.iter().any(|file| file == stem(&mutants[*n].file));
    let mut chosen: Vec<usize> = (0..mutants.len()).filter(selected).collect();
    if let Some(sample) = args.sample {
        let shuffled = Philox { seed: args.seed, stream: stream::TEST, step: 0 }.permutation(chosen.len());
        chosen = shuffled.into_iter().take(sample).map(|place| chosen[place]).collect();
        chosen.sort_unstable();
    }
    let total = chosen.len();
    let known = |number: &usize| listed.contains_key(number) && !args.equivalents;
    let (left_out, tried): (Vec<usize>, Vec<usize>) = chosen.into_iter().partition(known);
    let verdicts = judge(&args, &tried, |number, verdict| {
        let Mutant { file, mutation, description } = &mutants[number];
        let survives = matches!(verdict, Verdict::Survives) && !listed.contains_key(&number);
        if args.verbose || survives || matches!(verdict, Verdict::Stopped) {
            println!("{}.wgsl:{}: {description}: {verdict}", stem(file), mutation.line(&files[file]));
        }
    })?;
    let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut all = Tally::default();
    let mut apart: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, verdict) in verdicts.into_iter().chain(left_out.into_iter().map(|n| (n, Verdict::Survives))) {
        for tally in [&mut all, tallies.entry(stem(&mutants[number].file)).or_default()] {
            tally.add(&verdict, listed.get(&number).copied());
        }
        if let (Verdict::Survives, Some(Equivalent { apart: Some(kind), .. })) = (&verdict, listed.get(&number)) {
            *apart.entry(kind).or_default() += 1;
        }
    }
    let heads = ["mutants", "killed", "stopped", "equivalent", "apart", "survive"];
    println!("{:<16}{}", "shader", heads.map(|head| format!("{head:>11}")).concat());
    for (name, tally) in tallies.iter().map(|(name, tally)| (*name, tally)).chain([("all", &all)]) {
        let Tally { killed, stopped, equivalent, apart, survivors, .. } = *tally;
        let counts = [tally.valid(), killed, stopped, equivalent, apart, survivors];
        println!("{name:<16}{}", counts.map(|count| format!("{count:>11}")).concat());
    }
    let noticed = all.killed + all.stopped;
    let percent = |of: usize| 100.0 * noticed as f64 / of.max(1) as f64;
    println!(
        "{noticed} of {} mutants noticed: {:.1} %, {:.1} % of those that change something here; {} by a worker that hung or crashed, \
         not by a case; {} of {total} do not compile; {:.0} s",
        all.valid(),
        percent(all.valid()),
        percent(all.valid() - all.equivalent - all.apart),
        all.stopped,
        all.invalid,
        start.elapsed().as_secs_f64()
    );
    let kinds: Vec<String> = apart.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    println!(
        "equivalent.toml: {} change nothing that can be seen; {} another device may show ({})",
        all.equivalent,
        all.apart,
        kinds.join(", ")
    );
    match all.survivors {
        0 => Ok(()),
        survivors => Err(format!("{survivors} mutants survive: the cases have a hole").into()),
    }
}

/// The verdicts on these mutants, in parallel; `hear` gets each as it comes.
fn judge(
    args: &Args,
    chosen: &[usize],
    hear: impl Fn(usize, &Verdict) + Sync,
) -> Result<Vec<(usize, Verdict)>, Box<dyn Error>> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Verdict)>, String> {
        let mut worker = Worker::new(args);
        let mut verdicts = Vec::new();
        while let Some(&number) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            let verdict = worker.judge(number)?;
            hear(number, &verdict);
            verdicts.push((number, verdict));
        }
        Ok(verdicts)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..args.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        let mut verdicts = Vec::new();
        for thread in threads {
            verdicts.extend(thread.join().map_err(|_| "a thread failed")??);
        }
        Ok(verdicts)
    })
}
