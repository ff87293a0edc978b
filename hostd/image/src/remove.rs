//! `docker rmi`, with Docker's rules for names, ids and images in use.

use crate::digest::Digest;
use crate::error::ImageError;
use crate::index::{ImageRecord, LayerRecord};
use crate::model::Removed;
use crate::reference::Reference;
use crate::store::{ImageStore, Inner};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Tells who uses an image: (container id, whether it runs).
type Users<'a> = &'a (dyn Fn(&str) -> Vec<(String, bool)> + Sync);

impl ImageStore {
    /// `docker rmi`: untags, and deletes the image and its unshared layers with the last tag. `users` tells who uses
    /// an image: (container id, whether it runs); Docker's conflict messages. With `prune_parents`, the images that it was
    /// made from go too, where nothing else needs or names them. A container that never ran keeps its layers.
    pub async fn remove(
        &self,
        name: &str,
        force: bool,
        prune_parents: bool,
        users: &(dyn Fn(&str) -> Vec<(String, bool)> + Sync),
    ) -> Result<Vec<Removed>, ImageError> {
        // A few renames and one small file: not worth a thread of its own, which could not borrow `users`.
        Removal { inner: &self.inner, force, prune_parents, users, done: Vec::new() }.run(name)
    }
}

struct Removal<'a> {
    inner: &'a Inner,
    force: bool,
    prune_parents: bool,
    users: Users<'a>,
    done: Vec<Removed>,
}

/// An image that is not found any more.
struct Out {
    record: Arc<ImageRecord>,
    lessees: Vec<String>,
}

impl Removal<'_> {
    fn run(mut self, name: &str) -> Result<Vec<Removed>, ImageError> {
        let _changes = self.inner.change();
        let id = self.inner.read().resolve(name)?;
        let names = self.names(&id);
        let by_name = !is_id_prefix(&id, name);
        if by_name {
            let reference: Reference = name.parse()?;
            if !self.force
                && is_one_repository(&names)
                && let Some((container, _)) = self.users(&id).first()
            {
                return Err(ImageError::Conflict(format!(
                    "conflict: unable to remove repository reference {name:?} (must force) - container {} is using its \
                     referenced image {}",
                    short(container),
                    id.short()
                )));
            }
            self.untag_by_name(&reference.canonical(), &names)?;
            if !self.names(&id).is_empty() {
                return Ok(self.done);
            }
        } else if is_one_repository(&names) {
            self.check_unused(&id)?;
            self.untag(&names)?;
        }
        self.delete(&id, by_name)
    }

    /// Untags one name; with a repository's last tag its digests go too.
    fn untag_by_name(&mut self, reference: &Reference, names: &[Reference]) -> Result<(), ImageError> {
        let mut going = vec![reference.clone()];
        let same_repository = |name: &&Reference| *name != reference && name.name() == reference.name();
        let (tags, digests): (Vec<_>, Vec<_>) =
            names.iter().filter(same_repository).partition(|n| n.is_tagged());
        if reference.is_tagged() && tags.is_empty() {
            going.extend(digests.into_iter().cloned());
        }
        self.untag(&going)
    }

    fn untag(&mut self, names: &[Reference]) -> Result<(), ImageError> {
        if names.is_empty() {
            return Ok(());
        }
        self.inner.set_names(|all| all.retain(|name, _| !names.contains(name)))?;
        self.done.extend(names.iter().map(|name| Removed::Untagged(name.familiar())));
        Ok(())
    }

    fn delete(mut self, id: &Digest, by_name: bool) -> Result<Vec<Removed>, ImageError> {
        let names = self.names(id);
        if !names.is_empty() && !self.force {
            return Err(conflict(id, false, "image is referenced in multiple repositories"));
        }
        if self.inner.read().has_children(id) {
            return if by_name {
                Ok(self.done)
            } else {
                Err(conflict(id, true, "image has dependent child images"))
            };
        }
        match self.check_unused(id) {
            // The name is gone, as asked; the image stays for its containers.
            Err(_) if by_name => return Ok(self.done),
            other => other?,
        }
        let parent = self.inner.read().images.get(id).and_then(|image| image.parent.clone());
        match self.delete_record(id, &names) {
            Err(ImageError::Conflict(_)) if by_name => return Ok(self.done),
            other => other?,
        }
        if let Some(parent) = parent.filter(|_| self.prune_parents)
            && self.inner.read().images.contains_key(&parent)
            && self.names(&parent).is_empty()
        {
            self.force = false;
            return self.delete(&parent, true);
        }
        Ok(self.done)
    }

    fn delete_record(&mut self, id: &Digest, names: &[Reference]) -> Result<(), ImageError> {
        let Some(out) = self.take_out(id) else { return Ok(()) };
        let chain: Vec<Digest> = out.record.layers.iter().map(|layer| layer.chain_id.clone()).collect();
        let unnamed = self.let_it_go(id, &out, names);
        {
            let mut index = self.inner.write();
            index.let_go(&chain);
            if unnamed.is_err() {
                index.images.insert(id.clone(), out.record);
            }
        }
        unnamed?;
        self.inner.layout.discard(&self.inner.layout.blob(id))?;
        self.done.push(Removed::Deleted(id.to_string()));
        let removed = self.inner.remove_unused(&chain)?;
        self.done.extend(removed.iter().map(|chain_id| Removed::Deleted(chain_id.to_string())));
        Ok(())
    }

    /// Nobody finds the image from now on, so that nobody can begin to use it; its layers stay.
    fn take_out(&self, id: &Digest) -> Option<Out> {
        let mut index = self.inner.write();
        let record = index.images.remove(id)?;
        let chain: Vec<Digest> = record.layers.iter().map(|layer| layer.chain_id.clone()).collect();
        index.hold(&chain);
        Some(Out { record, lessees: index.lessees(id) })
    }

    /// Takes the names and the record away, up to the point of no return; not from those who have come to use the image
    /// since they were asked for last.
    fn let_it_go(&mut self, id: &Digest, out: &Out, names: &[Reference]) -> Result<(), ImageError> {
        // Who gave up a lease after it was noted has a container by now.
        let users = self.users_and(id, out.lessees.clone());
        self.refuse_for(id, &users)?;
        self.untag(names)?;
        self.keep_for_users(users, &out.record.layers)?;
        // The record goes first: blobs and layers without one are removed at start-up.
        self.inner.layout.discard(&self.inner.layout.image(id))?;
        crate::layout::sync_dir(&self.inner.layout.dir("images"))
    }

    /// Containers that have yet to start get their writable layers now: by these they keep the layers of an image that
    /// is removed by force.
    fn keep_for_users(&self, users: Vec<(String, bool)>, layers: &[LayerRecord]) -> Result<(), ImageError> {
        let chain: Vec<Digest> = layers.iter().map(|layer| layer.chain_id.clone()).collect();
        let mut made = false;
        for (container, _) in users {
            let mut index = self.inner.write();
            if index.snapshots.get(&container).is_some_and(|chain| !chain.is_empty()) {
                continue;
            }
            self.inner.make_snapshot(&container, layers)?;
            index.snapshots.insert(container, chain.clone());
            made = true;
        }
        // What they stand on is said nowhere else from now on.
        if made { self.inner.layout.sync() } else { Ok(()) }
    }

    /// Containers that use the image, and those that are being made to.
    fn users(&self, id: &Digest) -> Vec<(String, bool)> {
        let lessees = self.inner.read().lessees(id);
        self.users_and(id, lessees)
    }

    /// `lessees` were noted before: who has a container in their stead is asked for after that.
    fn users_and(&self, id: &Digest, lessees: Vec<String>) -> Vec<(String, bool)> {
        let mut users = (self.users)(&id.to_string());
        for key in lessees {
            if users.iter().all(|(container, _)| *container != key) {
                users.push((key, false));
            }
        }
        users
    }

    fn check_unused(&self, id: &Digest) -> Result<(), ImageError> {
        self.refuse_for(id, &self.users(id))
    }

    /// A running container keeps its image even from force.
    fn refuse_for(&self, id: &Digest, users: &[(String, bool)]) -> Result<(), ImageError> {
        if let Some((container, _)) = users.iter().find(|(_, running)| *running) {
            let why = format!("image is being used by running container {}", short(container));
            return Err(conflict(id, true, &why));
        }
        match users.first() {
            Some((container, _)) if !self.force => {
                let why = format!("image is being used by stopped container {}", short(container));
                Err(conflict(id, false, &why))
            }
            _ => Ok(()),
        }
    }

    fn names(&self, id: &Digest) -> Vec<Reference> {
        self.inner.read().names_of(id).cloned().collect()
    }
}

fn conflict(id: &Digest, hard: bool, why: &str) -> ImageError {
    let how = if hard { "cannot be forced" } else { "must be forced" };
    ImageError::Conflict(format!("conflict: unable to delete {} ({how}) - {why}", id.short()))
}

fn short(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}

fn is_id_prefix(id: &Digest, name: &str) -> bool {
    id.hex().starts_with(name.strip_prefix("sha256:").unwrap_or(name))
}

/// At most one tag, and any digests only of the same repository.
fn is_one_repository(names: &[Reference]) -> bool {
    let tags = names.iter().filter(|name| name.is_tagged()).count();
    let repositories: BTreeSet<String> = names.iter().map(Reference::name).collect();
    names.len() <= 1 || (tags <= 1 && repositories.len() == 1)
}
