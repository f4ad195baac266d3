//! Image files with their content: what makes the simulator an oracle for data and not only for names.
//!
//! An image holds its own blocks; what a disk *is* at some layer is that layer's blocks over those of its
//! backing images. A merge copies block by block, so that one that stops half-way leaves what a real one
//! leaves: a state image that is neither old nor new, under an overlay that still reads right.

use std::collections::BTreeMap;

use crate::hypervisor::{Error, ErrorKind, Layer, Result};

/// What a disk or an image holds: a value for each block that was ever written.
pub type Blocks = BTreeMap<u64, u64>;

/// What one block takes in an image file, in bytes: qcow2's cluster.
pub const BLOCK: u64 = 64 * 1024;

/// What a qcow2 image without any data takes, in bytes.
pub const EMPTY_IMAGE: u64 = 3 * BLOCK;

#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) format: String,
    pub(super) backing: Option<String>,
    pub(super) blocks: Blocks,
    /// Of a small file, all of it.
    pub(super) bytes: Vec<u8>,
    /// What it takes beside its blocks.
    pub(super) overhead: u64,
    /// Which of all writes was the last to it.
    pub(super) written: u64,
}

impl Image {
    pub(super) fn new(format: &str, backing: Option<String>) -> Self {
        let overhead = if format == "qcow2" { EMPTY_IMAGE } else { 0 };
        Self {
            format: format.to_owned(),
            backing,
            blocks: Blocks::new(),
            bytes: Vec::new(),
            overhead,
            written: 0,
        }
    }

    /// A file that is no image of ours: only its size matters.
    pub(super) fn alien(bytes: u64) -> Self {
        Self {
            format: "raw".to_owned(),
            backing: None,
            blocks: Blocks::new(),
            bytes: Vec::new(),
            overhead: bytes,
            written: 0,
        }
    }

    pub(super) fn small(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), ..Self::alien(0) }
    }

    pub(super) fn allocation(&self) -> u64 {
        self.overhead + self.bytes.len() as u64 + BLOCK * self.blocks.len() as u64
    }
}

/// One file system with all the host's image files.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) files: BTreeMap<String, Image>,
    pub(super) capacity: u64,
    /// How often something was written.
    pub(super) writes: u64,
}

impl Store {
    pub(super) fn used(&self) -> u64 {
        self.files.values().map(Image::allocation).sum()
    }

    pub(super) fn available(&self) -> u64 {
        self.capacity.saturating_sub(self.used())
    }

    pub(super) fn format(&self, path: &str) -> String {
        self.files.get(path).map_or("raw", |i| i.format.as_str()).to_owned()
    }

    pub(super) fn allocation(&self, path: &str) -> u64 {
        self.files.get(path).map_or(0, Image::allocation)
    }

    /// The images from this one down, as their headers name them.
    pub(super) fn chain(&self, top: &str) -> Vec<Layer> {
        let mut layers: Vec<Layer> = Vec::new();
        let mut next = Some(top);
        while let Some(path) = next {
            let image = self.files.get(path);
            let format = image.map_or("raw", |i| i.format.as_str());
            layers.push(Layer { path: path.to_owned(), format: format.to_owned() });
            next = image.and_then(|i| i.backing.as_deref());
        }
        layers
    }

    /// The image of this one's chain that is not there.
    pub(super) fn lost(&self, top: &str) -> Option<String> {
        self.chain(top).into_iter().map(|l| l.path).find(|path| !self.files.contains_key(path))
    }

    /// Whether a VM can start on this image.
    pub(super) fn check_openable(&self, top: &str, layer_limit: usize) -> Result<()> {
        let chain = self.chain(top);
        let refuse = |why: String| Err(Error::new(ErrorKind::Failed, why));
        match chain.iter().find(|l| !self.files.contains_key(&l.path)) {
            Some(lost) => refuse(format!("Cannot access backing file '{}'", lost.path)),
            None if chain.len() > layer_limit => {
                refuse("internal error: failed to parse JSON: nesting too deep".to_owned())
            }
            None => Ok(()),
        }
    }

    /// What is seen through this image.
    pub(super) fn read(&self, top: &str) -> Blocks {
        let mut seen = Blocks::new();
        for layer in self.chain(top).iter().rev() {
            if let Some(image) = self.files.get(&layer.path) {
                seen.extend(&image.blocks);
            }
        }
        seen
    }

    /// Writes one block to this very image.
    pub(super) fn write(&mut self, path: &str, block: u64, value: u64) -> Result<()> {
        let available = self.available();
        let Some(image) = self.files.get_mut(path) else {
            return Err(Error::new(
                ErrorKind::Failed,
                format!("Could not open '{path}': No such file or directory"),
            ));
        };
        if available < BLOCK && !image.blocks.contains_key(&block) {
            return Err(no_space(path));
        }
        image.blocks.insert(block, value);
        self.writes += 1;
        image.written = self.writes;
        Ok(())
    }

    /// Makes a new, empty image.
    pub(super) fn make(&mut self, path: &str, backing: &str) -> Result<()> {
        if self.files.contains_key(path) {
            return Err(Error::new(ErrorKind::Exists, format!("storage volume '{path}' exists already")));
        }
        if self.available() < EMPTY_IMAGE {
            return Err(no_space(path));
        }
        self.writes += 1;
        let image = Image { written: self.writes, ..Image::new("qcow2", Some(backing.to_owned())) };
        self.files.insert(path.to_owned(), image);
        Ok(())
    }

    /// Copies the first blocks of an image, at most so many, into another one. The image itself stays.
    pub(super) fn copy_down(&mut self, from: &str, to: &str, at_most: usize) -> Result<()> {
        let blocks = self.files.get(from).map(|i| i.blocks.clone()).unwrap_or_default();
        blocks.iter().take(at_most).try_for_each(|(block, value)| self.write(to, *block, *value))
    }

    /// Removes an image whose data its backing image holds by now; what lay on it lies on that.
    pub(super) fn drop_merged(&mut self, path: &str, into: &str) {
        self.files.remove(path);
        for image in self.files.values_mut() {
            if image.backing.as_deref() == Some(path) {
                image.backing = Some(into.to_owned());
            }
        }
    }
}

fn no_space(path: &str) -> Error {
    Error::new(ErrorKind::NoSpace, format!("cannot write '{path}': No space left on device"))
}
