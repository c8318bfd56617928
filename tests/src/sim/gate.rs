//! Where an edge's process can die: before and after each of its effects. A process that died has no effect any more,
//! whatever its tasks still try: each of them ends at its next effect.

use std::{
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use super::agenda::Agenda;

/// What a task ends with whose process died; told from a fault of the product's by its type.
pub struct Died;

/// One process's life; clones share it.
#[derive(Clone)]
pub struct Gate {
    inner: Arc<Inner>,
    agenda: Agenda,
}

struct Inner {
    dead: AtomicBool,
    ended: AtomicBool,
    /// Effects left until it dies; below zero it lives on.
    fuse: AtomicI64,
    effects: AtomicU64,
}

impl Gate {
    /// A new life.
    #[must_use]
    pub fn new(agenda: Agenda) -> Self {
        Self {
            inner: Arc::new(Inner {
                dead: AtomicBool::new(false),
                ended: AtomicBool::new(false),
                fuse: AtomicI64::new(-1),
                effects: AtomicU64::new(0),
            }),
            agenda,
        }
    }

    /// One side of an effect: the process dies here, if it is to.
    pub fn point(&self) {
        self.inner.effects.fetch_add(1, Ordering::Relaxed);
        if self.is_dead() || self.inner.fuse.load(Ordering::Relaxed) == 0 {
            self.die();
        }
        if self.inner.fuse.load(Ordering::Relaxed) > 0 {
            self.inner.fuse.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Lets it die at the n-th effect from now on.
    pub fn set_fuse(&self, effects: u32) {
        self.inner.fuse.store(effects.into(), Ordering::Relaxed);
    }

    fn die(&self) -> ! {
        self.kill();
        // Not a panic: no hook is called and nothing is printed.
        resume_unwind(Box::new(Died));
    }

    /// It is dead from now on.
    pub fn kill(&self) {
        self.inner.dead.store(true, Ordering::Relaxed);
        self.agenda.stir();
    }

    /// A part of it ended by itself, so the process ends as the product has it.
    pub fn end(&self) {
        self.inner.ended.store(true, Ordering::Relaxed);
        self.agenda.stir();
    }

    /// Whether it was killed.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.inner.dead.load(Ordering::Relaxed)
    }

    /// Whether it was killed or ended by itself.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_dead() || self.inner.ended.load(Ordering::Relaxed)
    }

    /// How many sides of effects it has come by.
    #[must_use]
    pub fn effects(&self) -> u64 {
        self.inner.effects.load(Ordering::Relaxed)
    }
}
