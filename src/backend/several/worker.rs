//! The thread that drives one device's part of a program: it submits each stage once what the stage receives has arrived, and hands on
//! what a stage sends once it is there. It sleeps when it waits, for its device, for another's, or for the next step.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::Running;
use crate::backend::{Parcel, Program, Ticket};
use crate::error::{Error, Result};
use crate::graph::partition::Partition;
use crate::graph::{Stage, ValueId};
use crate::tensor::Tensor;

/// The message of a worker whose step cannot go on since another's device failed.
pub(super) const ANOTHER_FAILED: &str = "another device failed in this step";

/// What a worker is told.
enum Command {
    Write(ValueId, Tensor),
    Step,
}

/// A value on its way from one device to another.
#[derive(Clone)]
enum Letter {
    InHost(Tensor),
    OnDevice(Parcel),
}

/// A thread and what it is reached by.
pub(super) struct Worker {
    commands: Option<Sender<Command>>,
    /// Of each step, in order: what the part gives of the graph's outputs.
    results: Receiver<Vec<Tensor>>,
    /// Why it ended, once it did.
    failure: Arc<Mutex<Option<Error>>>,
    thread: Option<JoinHandle<()>>,
}

/// One device's ends of the ways to the others: a channel for each transfer.
#[derive(Default)]
pub(super) struct Mail {
    /// To where a value goes.
    to: HashMap<ValueId, Vec<Sender<Letter>>>,
    /// From where a value comes.
    from: HashMap<ValueId, Receiver<Letter>>,
}

/// The ends of the devices that have something to do.
pub(super) fn mailboxes(partition: &Partition) -> Vec<Mail> {
    let mut mail: Vec<Mail> = partition.parts.iter().map(|_| Mail::default()).collect();
    for transfer in &partition.transfers {
        let (sender, receiver) = channel();
        mail[transfer.from.0].to.entry(transfer.from.1).or_default().push(sender);
        mail[transfer.to.0].from.insert(transfer.to.1, receiver);
    }
    let busy = mail.into_iter().zip(&partition.parts).filter(|(_, part)| !part.is_idle());
    busy.map(|(mail, _)| mail).collect()
}

impl Worker {
    /// Starts the thread of device number `device`, which sends `direct`ly to the other devices or by way of the host.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        device: usize,
        program: Box<dyn Program>,
        stages: Vec<Stage>,
        mail: Mail,
        direct: bool,
        running: Arc<Running>,
    ) -> Result<Worker> {
        let (commands, told) = channel();
        let (tell, results) = channel();
        let failure = Arc::new(Mutex::new(None));
        let kept = failure.clone();
        let driver = Driver {
            program,
            stages,
            mail,
            direct,
            told,
            tell,
            running,
            submitted: VecDeque::new(),
            steps: 0,
            told_of: 0,
        };
        let thread = std::thread::Builder::new().name(format!("convoy-device-{device}"));
        let thread = thread.spawn(move || driver.run(&kept));
        let thread = thread.map_err(|e| Error::device(format!("cannot start a thread for a device: {e}")))?;
        Ok(Worker { commands: Some(commands), results, failure, thread: Some(thread) })
    }

    /// Sets an input for the next step.
    pub fn write(&self, input: ValueId, tensor: Tensor) -> Result<()> {
        self.tell(Command::Write(input, tensor))
    }

    /// Begins a step.
    pub fn step(&self) -> Result<()> {
        self.tell(Command::Step)
    }

    /// The outputs of the oldest step that they were not taken of; `None` when it is not done and there is no `wait`.
    pub fn outputs(&self, wait: bool) -> Result<Option<Vec<Tensor>>> {
        let result = match wait {
            true => self.results.recv().map_err(|_| TryRecvError::Disconnected),
            false => self.results.try_recv(),
        };
        match result {
            Ok(outputs) => Ok(Some(outputs)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(self.ended()),
        }
    }

    /// Why the thread failed, if it did and that was not told before. It is known before the ways to the others are closed.
    pub fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn tell(&self, command: Command) -> Result<()> {
        let sent = self.commands.as_ref().is_some_and(|commands| commands.send(command).is_ok());
        if sent { Ok(()) } else { Err(self.ended()) }
    }

    fn ended(&self) -> Error {
        self.failure().unwrap_or_else(|| Error::device(ANOTHER_FAILED))
    }

    /// Lets the thread end once it has done what it was told.
    pub fn close(&mut self) {
        self.commands.take();
    }
}

impl Drop for Worker {
    /// Waits for the thread's end.
    fn drop(&mut self) {
        self.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What runs on the thread.
struct Driver {
    program: Box<dyn Program>,
    stages: Vec<Stage>,
    mail: Mail,
    direct: bool,
    told: Receiver<Command>,
    tell: Sender<Vec<Tensor>>,
    running: Arc<Running>,
    /// Stages that the device has and whose outputs were not handed on: number and ticket, the oldest first.
    submitted: VecDeque<(usize, Ticket)>,
    /// Steps begun.
    steps: usize,
    /// Steps whose end was told.
    told_of: usize,
}

impl Driver {
    fn run(mut self, failure: &Mutex<Option<Error>>) {
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| self.drive()));
        let panicked = |_| Err(Error::device("a kernel panicked; its message is above"));
        if let Err(error) = outcome.unwrap_or_else(panicked) {
            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
        // Steps that were begun, and those that still come, are over: nobody may wait for them.
        let missing = self.steps - self.told_of;
        self.running.finish(missing);
        let Driver { told, running, tell, mail, program, .. } = self;
        // The others' steps end too.
        drop((mail, tell, program));
        told.into_iter().filter(|command| matches!(command, Command::Step)).for_each(|_| running.finish(1));
    }

    /// Does what it is told until nobody can tell it anything any more.
    fn drive(&mut self) -> Result<()> {
        loop {
            let command = match self.told.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Disconnected) => return self.hand_on_all(),
                // Nothing to submit: time to wait for the device.
                Err(TryRecvError::Empty) if !self.submitted.is_empty() => {
                    self.hand_on(true)?;
                    continue;
                }
                Err(TryRecvError::Empty) => match self.told.recv() {
                    Ok(command) => command,
                    Err(_) => return Ok(()),
                },
            };
            match command {
                Command::Write(input, tensor) => self.program.write(input, &tensor)?,
                Command::Step => {
                    self.steps += 1;
                    (0..self.stages.len()).try_for_each(|stage| self.submit(stage))?;
                }
            }
        }
    }

    /// Submits a stage when what it receives is there, or on its way between devices. Until then, what was submitted before is handed on: others
    /// may wait for it.
    fn submit(&mut self, number: usize) -> Result<()> {
        for received in self.stages[number].received.clone() {
            let letter = loop {
                let from = self.mail.from.get(&received).ok_or_else(lost)?;
                match from.try_recv() {
                    Ok(letter) => break letter,
                    // Nobody waits for what is still to be handed on: it is only the step's outputs.
                    Err(TryRecvError::Empty) if self.direct || self.submitted.is_empty() => {
                        break from.recv().map_err(|_| Error::device(ANOTHER_FAILED))?;
                    }
                    Err(TryRecvError::Empty) => drop(self.hand_on(true)?),
                    Err(TryRecvError::Disconnected) => return Err(Error::device(ANOTHER_FAILED)),
                }
            };
            match letter {
                Letter::InHost(tensor) => self.program.write(received, &tensor)?,
                Letter::OnDevice(parcel) => self.program.receive(received, &parcel)?,
            }
        }
        let ticket = if self.direct {
            let (ticket, parcels) = self.program.hand_over()?;
            self.send(number, &mut parcels.into_iter().map(Letter::OnDevice))?;
            ticket
        } else {
            self.program.submit()?
        };
        self.submitted.push_back((number, ticket));
        // What is there already is handed on before the next stage keeps the processor busy.
        while !self.submitted.is_empty() && self.hand_on(false)? {}
        Ok(())
    }

    /// Sends what a stage has for the others.
    fn send(&self, number: usize, letters: &mut dyn Iterator<Item = Letter>) -> Result<()> {
        for sent in &self.stages[number].sent {
            let (letter, to) = (letters.next().ok_or_else(lost)?, self.mail.to.get(sent).ok_or_else(lost)?);
            let Some((last, others)) = to.split_last() else { continue };
            // A device that failed needs nothing any more, and says so itself.
            others.iter().for_each(|other| drop(other.send(letter.clone())));
            let _ = last.send(letter);
        }
        Ok(())
    }

    fn hand_on_all(&mut self) -> Result<()> {
        while !self.submitted.is_empty() {
            self.hand_on(true)?;
        }
        Ok(())
    }

    /// Hands on what the oldest submitted stage sends, and the outputs of a step whose last one it is, once it is done. Returns whether
    /// it was.
    fn hand_on(&mut self, wait: bool) -> Result<bool> {
        let Some(&(number, ticket)) = self.submitted.front() else { return Ok(false) };
        let Some(tensors) = self.program.outputs(ticket, wait)? else { return Ok(false) };
        self.submitted.pop_front();
        let mut tensors = tensors.into_iter();
        if !self.direct {
            self.send(number, &mut tensors.by_ref().map(Letter::InHost))?;
        }
        if number + 1 == self.stages.len() {
            self.told_of += 1;
            let _ = self.tell.send(tensors.collect());
            self.running.finish(1);
        }
        Ok(true)
    }
}

fn lost() -> Error {
    Error::device("a device lost a value that another needs")
}
