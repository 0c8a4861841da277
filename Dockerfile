FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY aiogate ./aiogate
RUN python -m pip wheel --wheel-dir /wheels .
RUN python -m venv /opt/aiogate \
    && /opt/aiogate/bin/python -m pip install --no-index --find-links /wheels aiogate

FROM python:3.12-slim
ENV PATH=/opt/aiogate/bin:$PATH PYTHONUNBUFFERED=1
COPY --from=build /opt/aiogate /opt/aiogate
RUN useradd --uid 10001 --no-log-init --create-home --home-dir /gateway --shell /usr/sbin/nologin aiogate \
    && install -d -o aiogate -g aiogate -m 0700 /gateway/var
WORKDIR /gateway
USER 10001
# Mount apis.d and policies.d here. The state in var outlives the container: keys, users, counters, secrets.
VOLUME /gateway/var
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import urllib.request as ask; ask.urlopen('http://127.0.0.1:8080/hello', timeout=2)"]
# The control API stays on the container's loopback: `docker exec NAME aiogate status`.
CMD ["aiogate", "serve", "--listen", "0.0.0.0:8080"]
