# docker build -t ehr-scaling .      --build-arg EXTRA=cuda for NVIDIA's GPUs; any extras of pyproject.toml
FROM python:3.12-slim
ARG EXTRA=
RUN --mount=target=/src,rw pip install --no-cache-dir "/src${EXTRA:+[$EXTRA]}"
# A user without a name or home (docker run -u) writes caches too
ENV HOME=/tmp USER=ehr_scaling
WORKDIR /study
ENTRYPOINT ["ehr-scaling"]
CMD ["check"]
