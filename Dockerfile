# The image of all services of docker-compose.yml: this project and what it runs on.
# PyPI's torch brings its CUDA libraries, so the same image serves with and without a GPU.
FROM python:3.11.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    RAY_USAGE_STATS_ENABLED=0

WORKDIR /build
COPY requirements.txt constraints-cuda.txt ./
# ray[default] brings Ray's dashboard.
RUN pip install --no-cache-dir uv==0.12.24 \
    && uv pip install --system --no-cache --compile-bytecode -r requirements.txt "ray[default]==2.55.1"
COPY pyproject.toml README.md LICENSE ./
COPY fl_sim fl_sim
COPY clients clients
COPY attacker attacker
COPY experiments experiments
RUN uv pip install --system --no-cache --compile-bytecode --no-deps .

# Volumes that are mounted on these folders belong to this user, and to nobody else.
RUN useradd --uid 10001 --create-home fl-sim \
    && mkdir -p /work/runs /state/public /state/superlink /state/nodes /state/ray /state/database \
    && chown -R fl-sim:fl-sim /work /state \
    && chmod -R 700 /work /state
USER 10001:10001
WORKDIR /work
ENV FL_SIM_STATE=/state

CMD ["fl-sim", "--help"]
