# Training on an NVIDIA GPU host (docs/scaling.md). torch's wheels bring CUDA; the host needs the driver and NVIDIA's container toolkit.
#   docker build -t uniapl . && docker run --gpus all --shm-size 8g -v "$PWD:/runs" uniapl train my.yaml
FROM python:3.12-slim

RUN useradd --create-home --uid 1000 trainer
WORKDIR /opt/uniapl
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir -c constraints.txt '.[report,data,collect,lora,vllm]'

# run folders belong to the host's user: docker run --user "$(id -u):$(id -g)"
USER trainer
WORKDIR /runs
ENTRYPOINT ["python", "-m", "uniapl"]
CMD ["--help"]
