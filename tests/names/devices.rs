//! Devices: each has an interface of its own, and a DHCP client that comes, renews, releases, vanishes, and comes back under
//! another name.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Child;

use lab::Lab;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clients::Clients;
use crate::truth::{Diary, Session};
use crate::{Millis, Random, now};

pub(crate) struct Device {
    pub(crate) interface: String,
    pub(crate) mac: String,
    has_dhclient: bool,
    client: Option<Child>,
    pub(crate) session: usize,
    /// What its client last said that it has.
    pub(crate) address: Option<IpAddr>,
    is_releasing: bool,
    /// The number of its name.
    generation: u32,
    /// When something can happen to it again.
    due: Millis,
}

/// All of them.
pub(crate) struct Crowd {
    pub(crate) devices: Vec<Device>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) diary: Diary,
    clients: Clients,
    helpers: Vec<Child>,
    /// How long one that vanished stays away at most.
    lease: Millis,
}

impl Crowd {
    /// Makes the devices. One in `dhclients` has dhclient, if that is not 0.
    pub(crate) fn new(lab: &Lab, folder: &Path, number: usize, dhclients: usize, lease: Millis) -> Self {
        let client = lab.client();
        // Each interface answers for its own addresses.
        for (key, value) in [("arp_ignore", "1"), ("arp_announce", "2"), ("rp_filter", "0")] {
            client.sysctl(&format!("net.ipv4.conf.all.{key}"), value);
        }
        // A device that releases its address before it has found the gateway does not get its word through.
        let inside = lab.gateway().run("ip", &["-brief", "link", "show", "inside"]);
        let gateway = inside.split_whitespace().nth(2).expect("it has a MAC address").to_owned();
        let mut commands = String::new();
        let mut devices = Vec::new();
        for place in 0..number {
            let interface = format!("d{place}");
            let mac = format!("02:00:00:00:77:{place:02x}");
            commands += &format!(
                "link add link eth0 name {interface} address {mac} type macvlan mode bridge\n\
                 link set {interface} up\n\
                 neigh add 192.168.7.1 lladdr {gateway} dev {interface} nud permanent\n\
                 route add default via 192.168.7.1 dev {interface} onlink metric {}\n",
                1000 + place
            );
            devices.push(Device {
                interface,
                mac,
                has_dhclient: dhclients > 0 && place % dhclients == dhclients - 1,
                client: None,
                session: 0,
                address: None,
                is_releasing: false,
                generation: 0,
                due: 0,
            });
        }
        let batch = folder.join("links");
        fs::write(&batch, commands).unwrap();
        client.run("ip", &["-batch", batch.to_str().unwrap()]);
        let diary = Diary::new(folder.join("truth"));
        let clients = Clients::new(folder, &diary.path);
        Self { devices, sessions: Vec::new(), diary, clients, helpers: Vec::new(), lease }
    }

    /// Reads what the clients have said since.
    pub(crate) fn listen(&mut self) {
        for event in self.diary.read_on() {
            let device = &mut self.devices[self.sessions[event.session].device];
            if device.session == event.session {
                device.address = event.has;
            }
        }
        self.helpers.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
    }

    /// The devices that have an address and use it.
    pub(crate) fn users(&self) -> Vec<usize> {
        let is_user =
            |device: &&Device| device.client.is_some() && device.address.is_some() && !device.is_releasing;
        (0..self.devices.len()).filter(|place| is_user(&&self.devices[*place])).collect()
    }

    /// Something happens to one of them.
    pub(crate) fn act(&mut self, lab: &Lab, random: &mut Random) {
        self.listen();
        let place = random.below(self.devices.len());
        let device = &self.devices[place];
        if device.due > now() {
            return;
        }
        match (&device.client, device.address) {
            (None, _) => self.come(lab, place, random.below(3) == 0),
            (Some(_), None) if device.is_releasing => {
                self.end(lab, place);
                self.come(lab, place, random.below(3) == 0);
            }
            (Some(_), None) => {}
            (Some(_), Some(_)) if device.is_releasing => {}
            (Some(client), Some(_)) => match random.below(8) {
                0 | 1 if !device.has_dhclient => signal(client, Signal::SIGUSR1),
                0..=4 => self.release(lab, place, random),
                5 => {
                    self.end(lab, place);
                    self.devices[place].due = now() + random.below(self.lease as usize) as Millis;
                }
                6 => {
                    self.end(lab, place);
                    self.come(lab, place, true);
                }
                _ => self.devices[place].due = now() + 3_000,
            },
        }
    }

    /// Starts the clients of all devices that have none.
    pub(crate) fn come_all(&mut self, lab: &Lab) {
        for place in 0..self.devices.len() {
            if self.devices[place].client.is_none() {
                self.come(lab, place, false);
            }
        }
    }

    /// Starts the client of a device.
    fn come(&mut self, lab: &Lab, place: usize, is_renamed: bool) {
        let session = self.sessions.len();
        let device = &mut self.devices[place];
        device.generation += u32::from(is_renamed);
        let name = format!("d{place}n{}", device.generation);
        self.sessions.push(Session {
            device: place,
            name: name.clone(),
            started: now(),
            released: None,
            killed: None,
        });
        (device.session, device.address, device.is_releasing) = (session, None, false);
        let start = if device.has_dhclient { Clients::dhclient } else { Clients::udhcpc };
        device.client = Some(start(&self.clients, lab, &device.interface, &name, session));
        device.due = now() + 1_000;
    }

    fn release(&mut self, lab: &Lab, place: usize, random: &mut Random) {
        let device = &mut self.devices[place];
        device.is_releasing = true;
        device.due = now() + 200 + random.below(3_000) as Millis;
        self.sessions[device.session].released = Some(now());
        if device.has_dhclient {
            self.helpers.push(self.clients.release(lab, &device.interface, device.session));
        } else if let Some(client) = &device.client {
            signal(client, Signal::SIGUSR2);
        }
    }

    /// Ends the client of a device at once: it tells nobody.
    fn end(&mut self, lab: &Lab, place: usize) {
        let device = &mut self.devices[place];
        if let Some(mut client) = device.client.take() {
            let _ = client.kill();
            let _ = client.wait();
            self.sessions[device.session].killed = Some(now());
        }
        lab.client().run("ip", &["address", "flush", "dev", &device.interface]);
        // What it still said.
        self.listen();
        self.devices[place].address = None;
    }
}

fn signal(client: &Child, signal: Signal) {
    let _ = kill(Pid::from_raw(client.id() as i32), signal);
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let clients = self.devices.iter_mut().filter_map(|device| device.client.as_mut());
        for child in clients.chain(&mut self.helpers) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
