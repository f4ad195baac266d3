//! Looking at files, and moving small ones.

use virtsnap::{
    core::model::VmId,
    hypervisor::{Image, Images, Layer, Result, Save, Stray, User, sim::Op},
};

use super::Hooked;

impl Images for Hooked {
    fn images_beside(&self, path: &str) -> Result<Vec<Image>> {
        self.at(Op::ImagesBeside).images_beside(path)
    }

    fn chain(&self, top: &Layer) -> Result<Vec<Image>> {
        self.at(Op::Chain).chain(top)
    }

    fn users(&self, images: &[String], of: VmId) -> Result<Vec<(String, User)>> {
        self.at(Op::Users).users(images, of)
    }

    fn strays(&self) -> Result<Vec<Stray>> {
        self.at(Op::Strays).strays()
    }

    fn load(&self, path: &str, at_most: u64) -> Result<Vec<u8>> {
        self.at(Op::Load).load(path, at_most)
    }

    fn save(&self, path: &str, bytes: &[u8], how: Save<'_>) -> Result<()> {
        self.at(Op::Save).save(path, bytes, how)
    }
}
