//! A network that can be cut: a TCP proxy with a gate. While it is closed, connections are ended at once.

use std::net::Ipv4Addr;

use anyhow::Result;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// See the module.
pub struct Proxy {
    /// Where it listens, on the loopback interface.
    pub port: u16,
    open: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// An open one, to a port of this machine.
    ///
    /// # Errors
    /// Where it cannot listen.
    pub async fn to(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (open, gate) = watch::channel(true);
        let own = listener.local_addr()?.port();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, port, gate.clone()));
            }
        });
        Ok(Self { port: own, open, task })
    }

    /// Ends every connection, and each new one.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut client: TcpStream, port: u16, mut gate: watch::Receiver<bool>) {
    if !*gate.borrow() {
        return;
    }
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
    tokio::select! {
        // However it ends, both ends see it end.
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = gate.wait_for(|open| !open) => {}
    }
}
