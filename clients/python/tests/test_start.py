def test_the_server_starts(server):
    assert server.address.startswith("http://127.0.0.1:")
