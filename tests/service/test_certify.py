def test_smoke(server):
    for f in (
        {},
        {"guarantee": "individual", "attack_range": 10},
        {"guarantee": "heuristic"},
        {"transformation": "translation"},
        {"transformation": "l2"},
        {"model": "undecided"},
    ):
        r = server.certify(**f)
        print(f, r.status_code, r.text)
    print(server.predict().text)
    print(server.client.get("/v1/models").text[:500])
    print(server.client.get("/v1/bounds").text[:500])
    print(server.client.get("/metrics").text[:6000])
    print(
        server.client.options("/v1/certify"),
        server.client.head("/health/live"),
        server.client.get("/nope").text,
    )
