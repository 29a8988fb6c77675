//! Connections that come back to the proxy, and more of them than there may be.

use super::*;
use lb_net::admission::Descriptors;

#[tokio::test]
async fn a_connection_that_comes_back_to_the_proxy_ends_after_a_few_rounds() {
    for listen in ["127.0.0.1", "::1"] {
        let proxy = Proxy::start(listen, &[any_port(listen)]).await;
        proxy.chooser.lead_to(proxy.address);
        let mut client = proxy.connect().await;
        let read = soon(client.read(&mut [0])).await;
        assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let told = proxy
            .chooser
            .until(|told| told.closed.len() == told.opened.len());
        let told = told.await;
        assert_eq!(told.came_back, 1);
        assert_eq!(told.opened.len(), 8, "{listen}");
    }
}

#[tokio::test]
async fn two_proxies_that_lead_to_each_other_notice_it() {
    let one = Proxy::start("127.0.0.1", &[any_port("127.0.0.1")]).await;
    let two = Proxy::start("127.0.0.1", &[one.address]).await;
    one.chooser.lead_to(two.address);
    let mut client = one.connect().await;
    let read = soon(client.read(&mut [0])).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(
        one.chooser.told().came_back + two.chooser.told().came_back,
        1
    );
}

#[tokio::test]
async fn where_there_are_too_many_the_one_idle_for_longest_makes_room() {
    let (listener, address) = listener().await;
    let admission = Admission::new(Descriptors::new(usize::MAX), Some(2));
    let proxy = Proxy::start_with("127.0.0.1", &[address], admission.clone()).await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push((
            proxy.connect().await,
            soon(listener.accept()).await.unwrap().0,
        ));
    }
    let mut refused = proxy.connect().await;
    assert_reset(&mut refused).await;
    sleep(Duration::from_millis(1100)).await;
    let (first, first_backend) = &mut clients[0];
    assert_open(first, first_backend).await;
    // The second one is idle, the first one is not.
    let mut third = proxy.connect().await;
    let mut third_backend = soon(listener.accept()).await.unwrap().0;
    assert_open(&mut third, &mut third_backend).await;
    assert_reset(&mut clients[1].0).await;
    assert_reset(&mut clients[1].1).await;
    let refused = admission.refused(None);
    assert_eq!((refused.max_connections, refused.shed), (1, 1));
    assert_eq!(admission.open_in_all(), 2);
    let (first, first_backend) = &mut clients[0];
    assert_open(first, first_backend).await;
}
