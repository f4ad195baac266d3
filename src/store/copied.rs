//! The disks that were copied to stand alone, until what was copied is on them for sure: from before the copy on.

use rusqlite::{Row, params};

use super::{Result, Store, begun::json};
use crate::core::{copied::CopiedDisk, model::VmId};

fn read(row: &Row<'_>) -> rusqlite::Result<(String, String, String, Option<i64>)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

impl Store {
    /// Before a disk is copied in this life of its VM. One that is written down already keeps its images: what they name
    /// was there then.
    pub fn copying(&self, disk: &CopiedDisk) -> Result<()> {
        let images = json(&disk.images)?;
        self.write(
            "INSERT INTO copied VALUES (?1, ?2, ?3, ?4) ON CONFLICT (vm, target) DO UPDATE SET life = ?4",
            params![disk.vm.to_string(), disk.target, images, number(disk.life)],
        )
    }

    /// What was copied is on this disk for sure, or was not copied.
    pub fn copied(&self, vm: VmId, target: &str) -> Result<()> {
        self.write("DELETE FROM copied WHERE vm = ?1 AND target = ?2", params![vm.to_string(), target])
    }

    /// All of which it is not known yet.
    pub fn unsure(&self) -> Result<Vec<CopiedDisk>> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT vm, target, images, life FROM copied ORDER BY vm, target")?;
        let rows = statement.query_map([], read)?;
        let mut all = Vec::new();
        for row in rows {
            let (vm, target, images, life) = row?;
            let (Ok(vm), Ok(images)) = (vm.parse(), serde_json::from_str(&images)) else { continue };
            all.push(CopiedDisk { vm, target, images, life: life.and_then(|life| u64::try_from(life).ok()) });
        }
        Ok(all)
    }

    /// Those of this VM.
    pub fn unsure_of(&self, vm: VmId) -> Result<Vec<CopiedDisk>> {
        Ok(self.unsure()?.into_iter().filter(|disk| disk.vm == vm).collect())
    }
}

fn number(life: Option<u64>) -> Option<i64> {
    life.map(|life| i64::try_from(life).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_copy_is_known_until_it_is_sure_with_what_it_was_on_first() {
        let store = Store::in_memory().unwrap();
        let [web, other] = [1, 2].map(|n| VmId(Uuid::from_u128(n)));
        let images = |all: &[&str]| all.iter().map(|i| ((*i).to_owned(), "qcow2".to_owned())).collect();
        let disk = |vm, target: &str, on: &[&str], life| CopiedDisk {
            vm,
            target: target.to_owned(),
            images: images(on),
            life: Some(life),
        };
        let first = disk(web, "vda", &["/i/a", "/i/'b'"], 3);
        store.copying(&first).unwrap();
        store.copying(&disk(other, "vda", &["/i/x"], 1)).unwrap();
        // Done again in another life, when it stands alone and nobody can tell what it stood on.
        store.copying(&disk(web, "vda", &["/i/a"], 4)).unwrap();
        store.copying(&disk(web, "vdb", &["/i/c"], 4)).unwrap();
        let again = CopiedDisk { life: Some(4), ..first };
        assert_eq!(store.unsure_of(web).unwrap(), [again, disk(web, "vdb", &["/i/c"], 4)]);
        store.copied(web, "vda").unwrap();
        assert_eq!(
            store.unsure().unwrap(),
            [disk(web, "vdb", &["/i/c"], 4), disk(other, "vda", &["/i/x"], 1)]
        );
    }
}
