import aiohttp

from front.metrics import Metrics
from shared.metrics import MetricsServer


async def get(server: MetricsServer, path: str) -> tuple[int, str]:
    assert server.address is not None
    host, port = server.address
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://{host}:{port}{path}") as response,
    ):
        return response.status, await response.text()


async def test_shows_figures_and_health():
    metrics = Metrics()
    metrics.peers.set(7)
    metrics.handshakes.labels("failed", "timeout").inc(3)
    why = ["draining"]
    server = MetricsServer(metrics.text, lambda: why[0])
    await server.start("127.0.0.1", 0)
    try:
        status, text = await get(server, "/metrics")
        assert status == 200
        assert "squall_front_peers 7.0" in text
        assert 'squall_front_handshakes_total{reason="timeout",result="failed"} 3.0' in text
        assert await get(server, "/health") == (503, "draining\n")
        why[0] = ""
        assert await get(server, "/health") == (200, "ok\n")
        assert (await get(server, "/elsewhere"))[0] == 404
    finally:
        await server.stop()


async def test_stops_also_when_it_never_started():
    await MetricsServer(Metrics().text).stop()


def test_two_fronts_in_one_process_count_apart():
    first, second = Metrics(), Metrics()
    first.peers.set(1)
    assert b"squall_front_peers 0.0" in second.text()
